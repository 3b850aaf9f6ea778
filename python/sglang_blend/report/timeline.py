"""The steps of all engines of a job on one time axis, in a few hundred equal bins.

Sums (tokens, seconds of use) are spread over the time that their steps took, so no token is lost or counted
twice whatever the number of bins; states (requests, KV tokens) are means over time. The time between the
death of an engine and the first step of the next is left out: it is marked, not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sglang_blend.scheduling.step_records import EngineSteps

FloatArray = NDArray[np.float64]

MOST_BINS = 400
_SUMS = (
    "steps",
    "prefill_tokens",
    "decode_tokens",
    "cached_tokens",
    "retracted",
    "compute_s",
    "kv_read_s",
    "weight_read_s",
)
_STATES = (
    "num_running",
    "num_waiting",
    "kv_used_tokens",
    "kv_left_tokens",
    "kv_right_tokens",
    "density",
    "decode_sm_share",
)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Arrays are (b,), one value a bin.

    Attributes:
        start_s: when each bin begins, seconds since the first step.
        bin_s: how long each bin is.
        sums: of what happened in each bin, by name.
        states: means over the time of each bin, by name; NaN where nothing is known.
        num_records, num_steps: what was read.
        duration_s: of all engines together.
        restarts_s: where a further engine begins.
        kv_pool_tokens: of the first engine.
        tail_start_s: when the last request stopped waiting.
        mean_batch: requests in decode, mean over the steps that decode.
        mean_kv_occupancy: part of the pool that running requests hold, mean over time; None without a pool.
    """

    start_s: FloatArray
    bin_s: float
    sums: dict[str, FloatArray]
    states: dict[str, FloatArray]
    num_records: int
    num_steps: int
    duration_s: float
    restarts_s: list[float]
    kv_pool_tokens: int | None
    tail_start_s: float
    mean_batch: float | None
    mean_kv_occupancy: float | None

    @property
    def tail_s(self) -> float:
        """Seconds at the end in which nobody waited any more, so the batch could only shrink."""
        return self.duration_s - self.tail_start_s

    @property
    def compute_use(self) -> float | None:
        """Modelled compute seconds over the duration; None without a cost model."""
        return self._use("compute_s")

    @property
    def memory_use(self) -> float | None:
        """Modelled seconds of KV and weight reads over the duration; None without a cost model."""
        kv, weights = self._use("kv_read_s"), self._use("weight_read_s")
        return None if kv is None or weights is None else kv + weights

    def rate(self, *names: str) -> FloatArray:
        """(b,) sums over the length of a bin: tokens per second, or a share of the time."""
        total: FloatArray = np.sum([self.sums[name] for name in names], axis=0)
        return total / self.bin_s

    def running_density(self, window: int = 15) -> FloatArray:
        """(b,) modelled compute over KV read seconds of what was executed in the bins around each.

        A single step is all prefill or all decode, so its own density says nothing.
        """
        compute, memory = _around(self.sums["compute_s"], window), _around(self.sums["kv_read_s"], window)
        with np.errstate(divide="ignore", invalid="ignore"):
            density = compute / memory
        return np.where(np.isfinite(density), density, np.nan)

    def _use(self, name: str) -> float | None:
        total = float(self.sums[name].sum())
        return total / self.duration_s if total and self.duration_s else None


def make_timeline(engines: list[EngineSteps], *, num_bins: int = MOST_BINS) -> Timeline | None:
    """Bin the records; None where there are none."""
    engines = [engine for engine in engines if engine.records]
    if not engines:
        return None
    parts: list[dict[str, FloatArray]] = []
    offset, restarts = 0.0, []
    for engine in engines:
        part = _columns(engine)
        part["start_s"] = part["start_s"] + offset
        part["end_s"] = part["end_s"] + offset
        if parts:
            restarts.append(offset)
        offset = float(part["end_s"][-1])
        parts.append(part)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    start, end = columns["start_s"], columns["end_s"]
    duration = max(offset, 1e-9)
    num_bins = max(1, min(num_bins, len(start)))
    edges = np.linspace(0.0, duration, num_bins + 1)
    sums = {name: np.diff(_cumulative(edges, start, end, columns[name])) for name in _SUMS}
    seconds = end - start
    states = {}
    for name in _STATES:
        known = ~np.isnan(columns[name])
        weight = np.diff(_cumulative(edges, start, end, np.where(known, seconds, 0.0)))
        total = np.diff(_cumulative(edges, start, end, np.where(known, columns[name], 0.0) * seconds))
        with np.errstate(divide="ignore", invalid="ignore"):
            states[name] = np.where(weight > 1e-12, total / weight, np.nan)
    waiting = np.flatnonzero(columns["num_waiting"] > 0)
    pool = engines[0].header.get("kv_pool_tokens")
    decode = columns["decode_tokens"] > 0
    num_steps = columns["steps"]
    # A record of decode has as many decode steps as it has steps, unless prefill was among them.
    decode_steps = float(num_steps[decode & (columns["prefill_tokens"] == 0)].sum())
    decoded = float(columns["decode_tokens"][decode & (columns["prefill_tokens"] == 0)].sum())
    held = float((columns["kv_used_tokens"] * seconds).sum())
    return Timeline(
        start_s=edges[:-1],
        bin_s=duration / num_bins,
        sums=sums,
        states=states,
        num_records=len(start),
        num_steps=int(num_steps.sum()),
        duration_s=duration,
        restarts_s=restarts,
        kv_pool_tokens=pool,
        tail_start_s=float(end[waiting[-1]]) if len(waiting) else 0.0,
        mean_batch=decoded / decode_steps if decode_steps else None,
        mean_kv_occupancy=held / (pool * duration) if pool else None,
    )


def _columns(engine: EngineSteps) -> dict[str, FloatArray]:
    """The records as columns, with `end_s`: where the next record starts."""
    columns: dict[str, Any] = {}
    for name in ("start_s", "t_s", *_SUMS, *_STATES):
        values = [record.get(name) for record in engine.records]
        columns[name] = np.array([np.nan if value is None else value for value in values], np.float64)
    for name in _SUMS:
        columns[name] = np.nan_to_num(columns[name])
    start = columns["start_s"] = np.maximum.accumulate(columns["start_s"])
    # How long the last step took is not recorded: as long as the one before.
    per_step = np.diff(start) / np.maximum(columns["steps"][:-1], 1)
    last = float(per_step[-1]) if len(per_step) else 0.0
    end = engine.header.get("end_s", max(float(columns["t_s"][-1]), float(start[-1])) + last)
    columns["end_s"] = np.append(start[1:], max(float(end), float(start[-1])))
    del columns["t_s"]
    return columns


def _cumulative(edges: FloatArray, start: FloatArray, end: FloatArray, amount: FloatArray) -> FloatArray:
    """Sum of `amount` up to each edge, every record spread evenly over its time."""
    upto = np.concatenate([[0.0], np.cumsum(amount)])
    times = np.concatenate([start[:1], end])
    reached: FloatArray = np.interp(edges, times, upto)
    reached[-1] = upto[-1]
    reached[0] = 0.0
    return reached


def _around(values: FloatArray, window: int) -> FloatArray:
    found: FloatArray = np.convolve(values, np.ones(min(window, len(values))), mode="same").astype(np.float64)
    return found
