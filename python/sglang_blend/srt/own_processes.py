"""The processes that a drop-in engine has started: Ctrl-C is kept from them, and they are ended at its end.

A terminal, and an interrupted notebook cell, send SIGINT to every process of the group, and SGLang's
scheduler and detokenizer die of it: it is to stop the call that is running, not the engine. A signal that is
blocked when a process is started stays blocked in it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker

from sglang.srt.utils import kill_process_tree

# How long killed processes may take to give back their memory.
MAX_WAIT_S = 60


@contextlib.contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes that this thread starts meanwhile never see a SIGINT; ours waits until the end."""
    resource_tracker.ensure_running()  # the start of the first process unblocks the signal, for its own ends
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_processes(pids: Sequence[int]) -> None:
    """Kill them and wait until nothing is left of them, not even a zombie.

    Raises:
        RuntimeError: one of them has not gone in a minute.
    """
    for pid in pids:
        kill_process_tree(pid, wait_timeout=MAX_WAIT_S)
    for child in multiprocessing.active_children():
        if child.pid in pids:
            child.join(MAX_WAIT_S)
