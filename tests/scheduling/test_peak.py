"""Whether memory will suffice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from oracles.naive_peak import peak_tokens
from scheduling.test_request_state import request
from sglang_blend.scheduling.lengths import ExpectedLen, PlannedLen
from sglang_blend.scheduling.peak import ExpectedPeak, with_margin

requests = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 200)), max_size=12)


def peak_of(pool: int, shared: int, running: list[tuple[int, int]]) -> ExpectedPeak:
    context, remaining = np.array(running, np.float64).reshape(-1, 2).T
    return ExpectedPeak(pool, shared, context, remaining)


@given(requests, requests, st.integers(100, 2000), st.integers(0, 100))
def test_what_is_admitted_stays_below_the_pool_at_its_peak(
    running: list[tuple[int, int]], candidates: list[tuple[int, int]], pool: int, shared: int
) -> None:
    """The answer is that of the plain formula over everything that runs."""
    peak = peak_of(pool, shared, running)
    admitted = list(running)
    for context, remaining in candidates:
        fits = peak.fits(context, remaining)
        both = np.array([*admitted, (context, remaining)])
        assert fits == (peak_tokens(both[:, 0], both[:, 1], shared) <= pool)
        if fits:
            peak.add(context, remaining)
            admitted.append((context, remaining))
    assert peak.num_requests == len(admitted)


def test_more_fits_than_the_sum_says_when_the_short_ones_end_first() -> None:
    peak = peak_of(200, 0, [(100, 5)])
    assert peak.fits(10, 150), "the first has ended long before the second is long"
    assert not peak.fits(10, 195)


def test_an_estimate_that_nothing_stands_behind_is_reserved_for_in_full() -> None:
    expected = ExpectedLen(100, 200)
    assert with_margin(expected, 100, doubt=1.0) == 200
    assert with_margin(expected, 100, doubt=0.0) == 120
    assert with_margin(expected, 100, doubt=0.15) == 125


def test_the_margin_shrinks_with_the_number_of_running_requests() -> None:
    for num_running, reserved in ((1, 200), (100, 120)):
        one = request(0)
        one.expected = PlannedLen(100, 200)
        assert one.end_len(num_running) == reserved
        one.num_generated = 30
        assert one.end_len(num_running) == reserved, "what is generated just counts down"
        one.num_generated = reserved + 80
        assert one.end_len(num_running) > reserved + 80, "outrun: estimated again"
