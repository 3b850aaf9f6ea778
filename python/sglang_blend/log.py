"""Logging of the commands: our own lines from INFO, bare; everybody else's from WARNING. All on stderr."""

import logging
import sys

LOG_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LOG_LEVEL = "info"


def log_to_stderr(level: str = DEFAULT_LOG_LEVEL) -> None:
    """Set up logging; called by commands, never at import. SGLang replaces the root's handlers later.

    Args:
        level: of our own lines, one of `LOG_LEVELS`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    own = logging.getLogger("sglang_blend")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    own.handlers, own.propagate = [handler], False
    own.setLevel(level.upper())
