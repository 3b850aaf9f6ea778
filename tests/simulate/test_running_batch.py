"""Closed forms and sorted arrays of the running batch against sums and the formula they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.core.pacing import peak_tokens
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.running_batch import Forecast
from sglang_blend.simulate.step_time import KvRead, StepTimer
from simulate.jobs import COST


@given(
    mode=st.sampled_from(["mixed", "overlap"]),
    num_steps=st.integers(1, 200),
    batch_size=st.integers(1, 900),
    mean_context=st.integers(1, 900),
)
def test_a_run_of_decode_steps_takes_the_sum_of_its_steps(mode, num_steps, batch_size, mean_context):
    """In closed form as one by one, also where KV reads overtake compute on the way."""
    timer = StepTimer(COST, EngineConfig(mode=mode))
    tokens = batch_size * mean_context
    summed = sum(
        timer.step_s(batch_size, batch_size, 0.0, timer.kv_s(KvRead(tokens + i * batch_size, 0, 0, 0)))
        for i in range(num_steps)
    )
    run_s = timer.decode_run_s(num_steps, batch_size, KvRead(tokens, 0, batch_size, 0))
    assert run_s == pytest.approx(summed, rel=1e-12)


def test_reads_overtake_compute_in_the_middle_of_a_run():
    """The case above is not vacuous: 600 requests start compute-bound and end memory-bound."""
    timer = StepTimer(COST, EngineConfig(mode="overlap"))
    first, last = (timer.weight_s(1) + timer.kv_s(KvRead(600 * c, 0, 0, 0)) for c in (300, 800))
    assert first < timer.gemm_s(600, 600) < last


requests = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 50), st.integers(0, 120), st.integers(0, 40)),
    min_size=1,
    max_size=12,
)


@given(admitted=requests, later=st.integers(0, 200), limit=st.integers(0, 5000))
def test_the_forecast_is_the_papers_peak_over_expected_finishes(admitted, later, limit):
    """Estimates that ran out count as an eighth of what was generated, at least 8 steps; `fits` is exact."""
    forecast = Forecast()
    admitted = sorted(admitted)
    for number, (step, private, est, generated) in enumerate(admitted):
        forecast.add(
            number,
            step_no=step,
            private_len=private,
            kv_len=private + 10,
            est_steps=est,
            cap_steps=est,
            generated=generated,
        )
    now = 60 + later
    rem, context = [], []
    for step, private, est, generated in admitted:
        left = step + est - now
        rem.append(left if left > 0 else max((generated + now - step) // 8, 8))
        context.append(private + now - step)
    expected = peak_tokens(np.array(context), np.array(rem))
    assert forecast.peak_private(now) == expected
    assert forecast.fits(now, limit) == (expected <= limit)
    by_request = dict(zip(forecast.requests.tolist(), forecast.remaining(now).tolist(), strict=True))
    assert by_request == dict(enumerate(rem))
    for number in range(len(admitted)):
        forecast.remove(number)
    assert forecast.size == 0
    assert forecast.peak_private(now) == 0.0
