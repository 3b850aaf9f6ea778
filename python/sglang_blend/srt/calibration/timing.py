"""How long a call takes on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# A round repeats the call until it has taken so long, and at least so often.
_LEAST_S = 0.3
_LEAST_CALLS = 5
# Rounds whose best one counts: cores are shared with others, who only ever slow a call down.
_ROUNDS = {"cpu": 3, "cuda": 1}


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The same kernels without the time to launch them one by one: on NVIDIA a CUDA graph, else the call."""
    if device.type != "cuda":
        return call
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # what a first call allocates and compiles must not be captured
        call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call that ends when the device has done its work: the median of a round, of several rounds
    the best. The first two calls do not count.

    Short kernels are timed in rounds of several calls, so that launching them is not what is measured.
    """
    call()
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    once_s = max(time.perf_counter() - start, 1e-7)
    calls = max(1, int(0.01 / once_s)) if device.type == "cuda" else 1
    return min(_round(call, calls, device) for _ in range(_ROUNDS[device.type]))


def _round(call: Callable[[], object], calls: int, device: torch.device) -> float:
    found: list[float] = []
    while len(found) < _LEAST_CALLS or sum(found) * calls < _LEAST_S:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(device)
        found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)
