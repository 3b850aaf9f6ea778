"""Ends processes that `multiprocessing` has started, with all that they have started themselves."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

from sglang.srt.utils import kill_process_tree

# How long killed processes may take to give back their memory.
MAX_WAIT_S = 60


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
