"""Logging of the commands: our own lines from INFO, bare; everybody else's from WARNING. All on stderr."""

import logging
import sys


def log_to_stderr() -> None:
    """Set up logging; called by commands, never at import. SGLang replaces the root's handlers later."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    own = logging.getLogger("sglang_blend")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    own.handlers, own.propagate = [handler], False
    own.setLevel(logging.INFO)
