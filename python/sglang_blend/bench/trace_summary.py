"""Where the time of some steps went, from a torch profiler trace (Chrome's trace format).

With kernels of a device in it, those are summed up, and what is left of the span is time in which the device
had nothing to do. Without, the operators of the busiest thread are, each less the operators inside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# The first kind whose pattern is found in a name, in this order.
_KINDS = (
    ("communication", r"nccl|all_?reduce|all_?gather|reduce_scatter"),
    ("attention", r"batch(decode|prefill)|flash(?!infer)|fmha|attention|scaled_dot_product|merge_?state"),
    ("linear layers", r"gemm|nvjet|cutlass|splitk|aten::(addmm|mm|bmm|linear|matmul)"),
    ("norm, activation, rotation", r"norm|silu|gelu|act_and_mul|rope|rotary"),
    ("sampling", r"softmax|argmax|top_?[kp]|sampl|sort|multinomial"),
    ("copies and indices", r"copy|memcpy|memset|index|gather|scatter|cat|embedding"),
)
_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


class TraceSummary(NamedTuple):
    """Seconds.

    Attributes:
        span_s: from the first to the end of the last event.
        busy_s: of that, covered by at least one; the rest is idle.
        kinds: (kind, seconds), most first; they may overlap on a device with several streams.
        names: the same for single kernels or operators.
        on_device: whether kernels were found.
    """

    span_s: float
    busy_s: float
    kinds: list[tuple[str, float]]
    names: list[tuple[str, float]]
    on_device: bool

    @property
    def idle_ratio(self) -> float:
        """Part of the span in which nothing ran."""
        return 1.0 - self.busy_s / self.span_s if self.span_s else 0.0


class _Event(NamedTuple):
    start: float
    end: float
    name: str
    thread: Any


def summarise(events: Iterable[dict[str, Any]]) -> TraceSummary:
    """Sum a trace up.

    Args:
        events: `traceEvents`; those with a duration count, in microseconds.
    """
    found: dict[bool, list[_Event]] = {True: [], False: []}
    for event in events:
        if event.get("ph") != "X" or event.get("cat") not in (*_DEVICE, "cpu_op"):
            continue
        start, name = float(event["ts"]), str(event["name"])
        timed = _Event(
            start, start + float(event.get("dur", 0.0)), name, (event.get("pid"), event.get("tid"))
        )
        found[event["cat"] in _DEVICE].append(timed)
    on_device = bool(found[True])
    chosen = found[True] if on_device else _of_busiest_thread(found[False])
    seconds: defaultdict[str, float] = defaultdict(float)
    if on_device:
        for kernel in chosen:
            seconds[kernel.name] += (kernel.end - kernel.start) / 1e6
    else:
        for name, own in _own_times(chosen):
            seconds[name] += own / 1e6
    kinds: defaultdict[str, float] = defaultdict(float)
    for name, value in seconds.items():
        kinds[kind_of(name)] += value
    span = max((e.end for e in chosen), default=0.0) - min((e.start for e in chosen), default=0.0)
    return TraceSummary(
        span / 1e6, _covered(chosen) / 1e6, _most_first(kinds), _most_first(seconds)[:12], on_device
    )


def _most_first(seconds: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def kind_of(name: str) -> str:
    """The kind of work that a kernel or operator does, by its name."""
    folded = name.lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, folded)), "other")


def _of_busiest_thread(events: Sequence[_Event]) -> list[_Event]:
    by_thread: defaultdict[Any, list[_Event]] = defaultdict(list)
    for event in events:
        by_thread[event.thread].append(event)
    return max(by_thread.values(), key=_covered, default=[])


def _covered(events: Sequence[_Event]) -> float:
    """Length of the union of the intervals."""
    total, reached = 0.0, float("-inf")
    for event in sorted(events):
        total += max(0.0, event.end - max(event.start, reached))
        reached = max(reached, event.end)
    return total


def _own_times(events: Sequence[_Event]) -> list[tuple[str, float]]:
    """Each event of one thread less those directly inside it."""
    ordered = sorted(events, key=lambda event: (event.start, -event.end))
    own = [event.end - event.start for event in ordered]
    around: list[int] = []  # positions of the events that the present one lies in
    for i, event in enumerate(ordered):
        while around and ordered[around[-1]].end <= event.start:
            around.pop()
        if around:
            own[around[-1]] -= event.end - event.start
        around.append(i)
    return [(event.name, seconds) for event, seconds in zip(ordered, own, strict=True)]
