"""What a command says: to a reader of stdout that may leave early, as `head` does, and in a log on stderr.

What others wrote (a model, a line of a file, an engine) is part of it: control characters are shown, not
sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from sglang_blend.blotting import without_signatures

LOG_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LOG_LEVEL = "info"
# What a shell reports of a program that SIGPIPE ended.
EXIT_BROKEN_PIPE = 141


def open_streams() -> None:
    """Give a command that was started without stdin, stdout or stderr (`2>&-`) ones that lead nowhere.

    Otherwise the next file that is opened has their number, and gets what is meant for them.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - until the end


def say(text: str) -> None:
    """Print a line; a reader or a terminal that has gone misses nothing that it wanted."""
    try:
        print(printable(text), flush=True)
    except OSError:
        drop_stdout()


def complain(text: str) -> None:
    """Print a line on stderr, where there is one still."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text for a terminal or a log, without signatures.

    What would move a cursor, set a title or write a clipboard is escaped.
    """
    return "".join(
        char if char in "\n\t" or (char >= " " and not "\x7f" <= char <= "\x9f") else f"\\x{ord(char):02x}"
        for char in without_signatures(text)
    )


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
    handler.setFormatter(_Printable("%(message)s"))
    own.handlers, own.propagate = [handler], False
    own.setLevel(level.upper())


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def counted(number: int, noun: str) -> str:
    """`1 restart`, `2,000 restarts`: for nouns that take an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
