"""What a step takes beside its kernels is found in the steps of a job."""

from typing import Any

import pytest

from sglang_blend.errors import ConfigError
from sglang_blend.scheduling.step_records import COLUMNS, EngineSteps, step_overhead_s


def _steps(durations: list[float], **values: Any) -> EngineSteps:
    """Decode steps of these durations; their kernels take 0.3 s."""
    step: dict[str, float | None] = dict.fromkeys(COLUMNS, 0.0)
    step |= {"steps": 1, "decode_tokens": 4, "num_running": 4}
    step |= {"compute_s": 0.1, "weight_read_s": 0.2, "kv_read_s": 0.1} | values
    records, now = [], 0.0
    for seconds in [*durations, 0.0]:
        records.append(step | {"start_s": now})
        now += seconds
    return EngineSteps({}, records)


def test_the_median_of_what_the_kernels_leave() -> None:
    """The longer of compute and weights, then KV reads; one slow step does not matter."""
    assert step_overhead_s([_steps([0.35] * 30 + [9.0])]) == pytest.approx(0.05)


def test_kernels_that_took_less_than_modelled_leave_next_to_nothing() -> None:
    """Never less than a microsecond, which a record may hold."""
    assert step_overhead_s([_steps([0.25] * 30)]) == 1e-6


def test_only_decode_steps_of_their_own_count() -> None:
    """Steps with prefill, and records of several steps, say nothing of one decode step."""
    engines = [_steps([0.4] * 30), _steps([2.0] * 50, prefill_tokens=99), _steps([2.0] * 50, steps=3)]
    assert step_overhead_s(engines) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="has 10 decode steps"):
        step_overhead_s([_steps([0.4] * 10)])
