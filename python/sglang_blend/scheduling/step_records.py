"""The file of a scheduler's steps: written beside the output of a job, read by the report.

    {"run": {"started_at": 1763989000.1, "policy": "dual-scan", ..., "columns": ["start_s", ...]}}
    [0.0, 0.0, 1, 512, ...]
    [0.41, 0.41, 1, 0, ...]

Each engine that was started has a header, then a line per step at first; later lines stand for more and more
steps, so a night is some ten thousand lines of about 120 bytes.

`step_overhead_s` tells from them what a step takes beside its kernels: host work, launches, sampling. The
scheduler writes with each step what its kernels should take by the hardware record of the job
(`cost.step_use`); the rest of the time until the next step is overhead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from sglang_blend.errors import ConfigError

STEPS_AT_FULL_DETAIL = 2000
# Of the overhead: decode steps to tell it from, and the least of it.
_LEAST_STEPS = 20
_LEAST_S = 1e-6


@dataclass
class StepRecord:
    """Sums over some steps, and the state at the last of them.

    Attributes:
        start_s, t_s: when the first and the last of the steps began, seconds since `started_at`. What the
            steps took ends where the next record starts.
        steps: forward passes.
        prefill_tokens, decode_tokens, cached_tokens: tokens computed of prompts, decoded, taken from the
            cache.
        admitted, skipped, retracted: requests.
        policy_ms: CPU time of deciding who goes next.
        compute_s, kv_read_s, weight_read_s: modelled use of the device (`cost.step_use`).
        num_running, num_waiting: requests.
        kv_used_tokens: tokens of the KV pool that running requests hold, prefixes counted once.
        kv_left_tokens, kv_right_tokens: expected peaks of both sides' requests, shared prefixes counted for
            each; None under policies without sides.
        density: compute density of what runs; None where it is not known.
        decode_sm_share: part of the multiprocessors that decode has; None without PD-multiplexing.
    """

    start_s: float = 0.0
    t_s: float = 0.0
    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    cached_tokens: int = 0
    admitted: int = 0
    skipped: int = 0
    retracted: int = 0
    policy_ms: float = 0.0
    compute_s: float = 0.0
    kv_read_s: float = 0.0
    weight_read_s: float = 0.0
    num_running: int = 0
    num_waiting: int = 0
    kv_used_tokens: int = 0
    kv_left_tokens: float | None = None
    kv_right_tokens: float | None = None
    density: float | None = None
    decode_sm_share: float | None = None

    def to_json(self) -> list[float | None]:
        """The values in the order of `COLUMNS`, in as few characters as they need."""
        return [_short(getattr(self, name)) for name in COLUMNS]


COLUMNS = tuple(field.name for field in fields(StepRecord))


class EngineSteps(NamedTuple):
    """What one engine did: its header, and one value a record for each column that it names."""

    header: dict[str, Any]
    records: list[dict[str, float | None]]


def run_header(**facts: Any) -> dict[str, Any]:
    """The line that stands before the records of an engine."""
    return {"run": {**facts, "columns": COLUMNS}}


def read_steps(path: Path) -> Iterator[EngineSteps]:
    """The engines of a file, one after the other; lines that are not whole are left out."""
    current: EngineSteps | None = None
    with path.open("rb") as file:
        for line in file:
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict) and isinstance(value.get("run"), dict):
                if current is not None:
                    yield current
                current = EngineSteps(value["run"], [])
            elif isinstance(value, list) and current is not None:
                names = current.header.get("columns", ())
                if len(names) == len(value):
                    current.records.append(dict(zip(names, value, strict=True)))
    if current is not None:
        yield current


def step_overhead_s(engines: Iterable[EngineSteps]) -> float:
    """Median seconds of a decode step that the modelled kernels do not explain; at least 1e-6.

    Args:
        engines: of `read_steps`; records that stand for one step each are looked at, those with decode alone.

    Raises:
        ConfigError: there are fewer than 20 such steps.
    """
    left: list[float] = []
    for engine in engines:
        for now, then in zip(engine.records, engine.records[1:], strict=False):
            if now["steps"] != 1 or now["prefill_tokens"] or not now["decode_tokens"]:
                continue
            took = (then["start_s"] or 0.0) - (now["start_s"] or 0.0)
            kernels = max(now["compute_s"] or 0.0, now["weight_read_s"] or 0.0) + (now["kv_read_s"] or 0.0)
            left.append(took - kernels)
    if len(left) < _LEAST_STEPS:
        raise ConfigError(
            f"the steps file has {len(left)} decode steps of their own, {_LEAST_STEPS} are needed; run a "
            "longer job."
        )
    return max(median(left), _LEAST_S)


def _short(value: float | None) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}") if value < 1e4 else round(value, 4)
