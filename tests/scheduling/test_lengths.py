"""What is learnt about output lengths while requests run."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.scheduling.lengths import LengthClass, LengthClasses, PlannedLen


def test_before_anything_has_finished_half_of_the_cap_is_expected() -> None:
    mean, high = LengthClass(400).remaining(0, 400)
    assert mean == pytest.approx(212.5)
    assert 350 <= high <= 400


def test_doubt_falls_with_the_outputs_that_lasted_longer() -> None:
    """What finished early says nothing of how long those go on that have outlived it."""
    lengths = LengthClass(400)
    assert lengths.doubt(0) == 1.0
    for length in [30] * 21 + [90] * 3:
        lengths.observe(length)
    lengths.refresh([40] * 10)
    assert lengths.doubt(0) == pytest.approx(0.2)
    assert lengths.doubt(40) == pytest.approx(0.5)
    assert lengths.doubt(90) == 1.0
    assert PlannedLen(30, 60).doubt(0) == 0.0, "the plan has sampled"


def test_short_outputs_are_learnt_from_a_few() -> None:
    lengths = LengthClass(400)
    for _ in range(20):
        lengths.observe(3)
    lengths.refresh([])
    assert lengths.remaining(0, 400).high < 30


def test_the_first_to_finish_do_not_speak_for_those_that_still_run() -> None:
    """Ten short ones have finished while ninety have run for a hundred tokens: a tenth is short."""
    lengths = LengthClass(127)
    for _ in range(10):
        lengths.observe(5)
    lengths.refresh([100] * 90)
    assert lengths.remaining(0, 127).mean > 95


def test_the_mean_of_complete_observations_is_their_mean() -> None:
    rng = np.random.default_rng(0)
    seen = rng.integers(20, 200, 256)
    lengths = LengthClass(255)
    for length in seen.tolist():
        lengths.observe(length)
    lengths.refresh([])
    assert lengths.remaining(0, 255).mean == pytest.approx(seen.mean(), rel=0.05)
    beyond = seen[seen > 100]
    assert lengths.remaining(100, 255).mean == pytest.approx((beyond - 100).mean(), rel=0.1)


@given(
    st.lists(st.integers(0, 127), max_size=50),
    st.lists(st.integers(0, 127), max_size=50),
    st.integers(0, 200),
    st.integers(1, 127),
)
def test_what_remains_stays_within_the_cap(
    finished: list[int], running: list[int], generated: int, cap: int
) -> None:
    lengths = LengthClasses().of(127)
    for length in finished:
        lengths.observe(length)
    lengths.refresh(running)
    for expected in (lengths, PlannedLen(30, 60)):
        mean, high = expected.remaining(generated, cap)
        assert 0 <= mean <= high <= max(cap - generated, 0)


def test_a_planned_length_that_is_overrun_grows_with_the_output() -> None:
    planned = PlannedLen(50, 80)
    assert planned.remaining(20, 1000).mean == 30
    assert planned.remaining(160, 1000).mean == 20
