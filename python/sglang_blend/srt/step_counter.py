"""That schedulers step, told to the process that owns them through a page of shared memory.

    counter = StepCounter()              # in the owner; the file has no name, and goes with it
    BlendOptions(step_counter=counter.path)
    tick = ticker(options.step_counter)  # in a scheduler
    counter.value()                      # differs when one of them has stepped

A token reaches the owner by itself. A long prefill makes none for minutes, and is progress all the same.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable

_SLOT = struct.Struct("<Q")
_NUM_BYTES = mmap.PAGESIZE


class StepCounter:
    """The owner's side."""

    def __init__(self) -> None:
        descriptor = os.memfd_create("sglang-blend-steps")
        os.ftruncate(descriptor, _NUM_BYTES)
        self._memory = mmap.mmap(descriptor, _NUM_BYTES)
        #: How other processes of this machine open it.
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"

    def value(self) -> bytes:
        """Of all schedulers."""
        return self._memory[:]


def ticker(path: str | None) -> Callable[[], None]:
    """What a scheduler calls at each step; it does nothing where there is no counter (another machine)."""
    try:
        if path is None:
            raise FileNotFoundError
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), _NUM_BYTES)
    except OSError:
        return lambda: None
    at = os.getpid() % (_NUM_BYTES // _SLOT.size) * _SLOT.size  # two in one slot count there together

    def tick() -> None:
        (steps,) = _SLOT.unpack_from(memory, at)
        _SLOT.pack_into(memory, at, (steps + 1) % 2**64)

    return tick
