"""Logging of the commands: our own lines from INFO, everybody else's from WARNING, all on stderr."""

import logging
import sys


def log_to_stderr() -> None:
    """Set up the root logger; called by commands, never at import."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("sglang_blend").setLevel(logging.INFO)
