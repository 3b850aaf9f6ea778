"""Closed forms of decode against the sums they stand for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.step_time import KvRead, StepTimer
from simulate.jobs import COST


@given(
    mode=st.sampled_from(["mixed", "overlap"]),
    num_steps=st.integers(1, 200),
    batch_size=st.integers(1, 900),
    mean_context=st.integers(1, 900),
)
def test_a_run_of_decode_steps_takes_the_sum_of_its_steps(
    mode: Any, num_steps: Any, batch_size: Any, mean_context: Any
) -> None:
    """In closed form as one by one, also where KV reads overtake compute on the way."""
    timer = StepTimer(COST, EngineConfig(mode=mode))
    tokens = batch_size * mean_context
    summed = sum(
        timer.step_s(batch_size, batch_size, 0.0, timer.kv_s(KvRead(tokens + i * batch_size, 0, 0, 0)))
        for i in range(num_steps)
    )
    run_s = timer.decode_run_s(num_steps, batch_size, KvRead(tokens, 0, batch_size, 0))
    assert run_s == pytest.approx(summed, rel=1e-12)


def test_reads_overtake_compute_in_the_middle_of_a_run() -> None:
    """The case above is not vacuous: 600 requests start compute-bound and end memory-bound."""
    timer = StepTimer(COST, EngineConfig(mode="overlap"))
    first, last = (timer.weight_s(1) + timer.kv_s(KvRead(600 * c, 0, 0, 0)) for c in (300, 800))
    assert first < timer.gemm_s(600, 600) < last
