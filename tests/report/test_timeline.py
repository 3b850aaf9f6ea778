"""Steps become bins without losing a token, whatever their number and length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.report.timeline import make_timeline
from sglang_blend.scheduling.step_records import COLUMNS, EngineSteps, StepRecord


def engine(records: list[StepRecord], **header: object) -> EngineSteps:
    rows = [dict(zip(COLUMNS, record.to_json(), strict=True)) for record in records]
    return EngineSteps({"kv_pool_tokens": 1000, **header}, rows)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(0, 900), st.integers(0, 60)), min_size=1, max_size=80
    ),
    st.integers(1, 50),
    st.integers(1, 3),
)
def test_no_token_is_lost_or_counted_twice(
    steps: list[tuple[int, int, int]], num_bins: int, num_engines: int
) -> None:
    records, now = [], 0.0
    for milliseconds, prefill, decode in steps:
        records.append(
            StepRecord(start_s=now, t_s=now, steps=1, prefill_tokens=prefill, decode_tokens=decode)
        )
        now += milliseconds / 1000
    line = make_timeline([engine(records)] * num_engines, num_bins=num_bins)
    assert line is not None
    assert line.sums["prefill_tokens"].sum() == pytest.approx(num_engines * sum(s[1] for s in steps))
    assert line.sums["decode_tokens"].sum() == pytest.approx(num_engines * sum(s[2] for s in steps))
    assert (line.sums["prefill_tokens"] >= -1e-6).all()
    assert line.num_steps == num_engines * len(steps)
    assert len(line.restarts_s) == num_engines - 1
    assert line.bin_s * len(line.start_s) == pytest.approx(line.duration_s)


def test_states_are_means_over_time() -> None:
    records = [StepRecord(start_s=0, steps=1, num_running=10), StepRecord(start_s=3, steps=1, num_running=2)]
    line = make_timeline([engine(records, end_s=4.0)], num_bins=1)
    assert line is not None
    assert line.states["num_running"][0] == pytest.approx((10 * 3 + 2 * 1) / 4)
    assert np.isnan(line.states["density"][0]), "nothing is known"


def test_the_tail_begins_when_nobody_waits_any_more() -> None:
    records = [StepRecord(start_s=second, steps=1, num_waiting=max(6 - second, 0)) for second in range(10)]
    line = make_timeline([engine(records, end_s=10.0)])
    assert line is not None
    assert (line.tail_start_s, line.tail_s) == (6.0, 4.0)


def test_use_and_occupancy_are_over_the_whole_time() -> None:
    records = [
        StepRecord(start_s=0, steps=2, compute_s=1.0, kv_read_s=0.5, weight_read_s=0.25, kv_used_tokens=500),
        StepRecord(start_s=2, steps=2, decode_tokens=12, kv_read_s=1.0, kv_used_tokens=0),
    ]
    line = make_timeline([engine(records, end_s=4.0)])
    assert line is not None
    assert line.compute_use == pytest.approx(1 / 4)
    assert line.memory_use == pytest.approx(1.75 / 4)
    assert line.mean_kv_occupancy == pytest.approx(0.25)
    assert line.mean_batch == 6


def test_there_is_no_timeline_without_steps() -> None:
    assert make_timeline([]) is None
    assert make_timeline([engine([])]) is None
