"""What a command says: to a reader of stdout that may leave early, as `head` does, and in a log on stderr."""

from __future__ import annotations

import logging
import os
import sys

LOG_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LOG_LEVEL = "info"
# What a shell reports of a program that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141


def say(text: str) -> None:
    """Print a line; a reader that has left misses nothing that it wanted."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_stdout()


def drop_stdout() -> None:
    """Let what is printed from now on go nowhere: nobody reads it, and Python would complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def log_to_stderr(level: str = DEFAULT_LOG_LEVEL) -> None:
    """Our own lines from INFO, bare; everybody else's from WARNING; all on stderr.

    Called by commands, never at import. SGLang replaces the root's handlers later.

    Args:
        level: of our own lines, one of `LOG_LEVELS`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    own = logging.getLogger("sglang_blend")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    own.handlers, own.propagate = [handler], False
    own.setLevel(level.upper())


def counted(number: int, noun: str) -> str:
    """`1 restart`, `2,000 restarts`: for nouns that take an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
