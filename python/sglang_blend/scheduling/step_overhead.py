"""What a step takes beside its kernels, from the steps of a job that ran: host work, launches, sampling.

The scheduler writes with each step what its kernels should take by the hardware record of the job
(`cost.step_use`); the rest of the time until the next step is overhead.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from sglang_blend.errors import ConfigError
from sglang_blend.scheduling.step_records import EngineSteps

_LEAST_STEPS = 20
_LEAST_S = 1e-6


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
