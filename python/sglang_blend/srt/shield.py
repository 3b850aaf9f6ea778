"""Keeps Ctrl-C from the processes of an engine: it stops the call that is running, not the engine.

A terminal, and an interrupted notebook cell, send SIGINT to every process of the group, and SGLang's
scheduler and detokenizer die of it. A signal that is blocked when a process is started stays blocked in it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes that this thread starts meanwhile never see a SIGINT; ours waits until the end."""
    resource_tracker.ensure_running()  # the start of the first process unblocks the signal, for its own ends
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
