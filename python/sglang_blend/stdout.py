"""Printing to a reader that may leave early, as `head` does."""

from __future__ import annotations

import os
import sys

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
