"""What SGLang's PD-multiplexing asks of CUDA, answered on the CPU: its loop runs, one side after the other.

Streams and green contexts do nothing here, so nothing is said about speed. What runs is the real
`event_loop_pdmux` with the real scheduler, cache and model.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

CHOICES_VARIABLE = "STAND_IN_STREAM_GROUPS"
NUM_SMS = 132  # of an H200
# Turns of the loop for which a prefill is reported as running after its last layer (3).
TURNS_VARIABLE = "STAND_IN_TURNS"


class Stream:
    """A stream that has always done its work, and events that take some turns to say so."""

    def __init__(self, *args: Any) -> None:
        pass

    def synchronize(self) -> None:
        """Nothing runs beside the caller."""

    def wait_stream(self, stream: Stream) -> None:
        """Nothing to wait for."""

    def record_event(self) -> Event:
        return Event()


class Event:
    """Done when it was asked often enough."""

    def __init__(self) -> None:
        self._left = int(os.environ.get(TURNS_VARIABLE, "3"))

    def query(self) -> bool:
        self._left -= 1
        return self._left <= 0


def run_scheduler_process(*args: Any, **kwargs: Any) -> None:
    """SGLang's function of this name, with the stand-ins in place; in the scheduler's process."""
    import torch

    spatial: Any = ModuleType("sgl_kernel.spatial")
    spatial.get_sm_available = lambda gpu_id: NUM_SMS
    spatial.create_greenctx_stream_by_value = lambda a, b, gpu_id: (Stream(), Stream())
    kernels: Any = ModuleType("sgl_kernel")
    kernels.spatial = spatial
    torch.cuda.Stream = Stream
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda device=None: (9, 0)

    from sglang.srt.managers.scheduler import run_scheduler_process as original
    from sglang.srt.multiplex import multiplexing_mixin, pdmux_context

    initialize = pdmux_context.initialize_stream_groups

    def initialize_stream_groups(*args: Any) -> None:
        # Only here: elsewhere SGLang asks whether these kernels can be imported, and they cannot.
        sys.modules |= {"sgl_kernel": kernels, "sgl_kernel.spatial": spatial}
        try:
            initialize(*args)
        finally:
            del sys.modules["sgl_kernel"], sys.modules["sgl_kernel.spatial"]

    def set_current_stream_idx(index: int) -> None:
        pdmux_context.set_current_stream_idx(index)
        with Path(os.environ[CHOICES_VARIABLE]).open("a") as file:
            file.write(f"{index}\n")

    multiplexing_mixin.initialize_stream_groups = initialize_stream_groups
    multiplexing_mixin.set_current_stream_idx = set_current_stream_idx
    original(*args, **kwargs)
