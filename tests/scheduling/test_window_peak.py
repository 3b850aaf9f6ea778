"""The pool of layers with a sliding window: who holds how much of it."""

from __future__ import annotations

import numpy as np

from sglang_blend.scheduling.peak import WindowPeak

MOST = 100


def peak(pool: float, *requests: tuple[float, float], used: float | None = None) -> WindowPeak:
    """Of requests as (context, remaining); what is used is theirs alone unless said."""
    context, remaining = (np.array([r[i] for r in requests], np.float64) for i in (0, 1))
    used = float(np.minimum(context, MOST).sum()) if used is None else used
    return WindowPeak(
        pool_tokens=pool, used_tokens=used, most_tokens=MOST, context_len=context, remaining_len=remaining
    )


def test_a_long_request_takes_what_one_may_hold_and_no_more() -> None:
    """Whether its prompt or its output is what makes it long."""
    for context, remaining in ((5000.0, 3.0), (10.0, 5000.0)):
        assert peak(100).fits(context, remaining)
        assert not peak(99).fits(context, remaining)


def test_a_short_request_takes_what_it_becomes() -> None:
    """As in a pool without windows."""
    assert peak(60).fits(20, 40)
    assert not peak(59).fits(20, 40)


def test_one_that_runs_grows_up_to_what_it_may_hold() -> None:
    """A long one that holds 30 of 100 tokens has 70 to come, one that has passed 100 none."""
    assert peak(200, (30, 500)).fits(5000, 0)
    assert not peak(199, (30, 500)).fits(5000, 0)
    assert peak(200, (700, 500)).fits(5000, 0)
    assert not peak(199, (700, 500)).fits(5000, 0)


def test_what_the_cache_holds_for_nobody_that_runs_counts() -> None:
    """And is not counted twice where it is theirs."""
    assert peak(110, (40, 10), used=40).fits(50, 50)
    assert not peak(110, (40, 10), used=41).fits(50, 50)


def test_a_candidate_that_was_admitted_counts_for_the_next() -> None:
    both = peak(160)
    both.add(5000, 10)
    assert both.fits(20, 40)
    assert not both.fits(20, 41)
