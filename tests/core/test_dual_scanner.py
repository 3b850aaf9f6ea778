"""The two scanners: what they admit when, and their accounts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.core.dual_scanner import DualScanner, ScanItems, account_side
from sglang_blend.core.request import Side


def test_a_left_request_far_over_its_estimate_counts_as_right() -> None:
    """Twice the estimate and more than 32 tokens; right requests stay."""
    assert account_side(Side.LEFT, 100, 200) == Side.LEFT
    assert account_side(Side.LEFT, 100, 201) == Side.RIGHT
    assert account_side(Side.LEFT, 2, 32) == Side.LEFT
    assert account_side(Side.LEFT, 2, 33) == Side.RIGHT
    assert account_side(Side.RIGHT, 1, 1000) == Side.RIGHT


def items_of(compute: list[float], memory: list[float], peak: list[float]) -> ScanItems:
    """Items of one request each."""
    compute_s, memory_s, held = (np.array(column, np.float64) for column in (compute, memory, peak))
    return ScanItems(compute_s, memory_s, held, held, held, num_steps=np.ones(len(compute)))


jobs = st.lists(
    st.tuples(st.floats(0.01, 10), st.one_of(st.just(0.0), st.floats(0.01, 10)), st.floats(1, 2000)),
    min_size=1,
    max_size=30,
)


@pytest.mark.slow
@given(job=jobs, mem=st.floats(100, 5000), data=st.data())
@settings(max_examples=200, deadline=None)
def test_each_item_is_admitted_once_within_the_memory(
    job: list[tuple[float, float, float]], mem: float, data: st.DataObject
) -> None:
    """Whatever finishes when, accounts add up, the pool is never overfilled but by an item alone in it."""
    job = sorted(job, key=lambda one: one[0] / one[1] if one[1] else math.inf, reverse=True)
    scanner = DualScanner(items_of(*map(list, zip(*job, strict=True))), mem_tokens=mem, min_left_requests=2)
    running: list[int] = []
    seen: list[int] = []
    while scanner.num_waiting:
        side = scanner.next_side()
        if side == Side.NONE:
            finished = running.pop(data.draw(st.integers(0, len(running) - 1)))
            scanner.advance(data.draw(st.floats(0, 10)))
            scanner.release(finished)
            continue
        item = scanner.admit(side)
        seen.append(item)
        running.append(item)
        scanner.check_integrity()
        assert sum(job[item][2] for item in running) <= mem * (1 + 1e-9) or len(running) == 1
    assert sorted(seen) == list(range(len(job)))
    assert scanner.next_side() == Side.NONE


def test_a_finish_admits_the_next_of_its_side_and_steps_earn_the_left_one() -> None:
    """Half dense, half sparse: each side has half of the memory."""
    # Densities 4 and 1; the mix of 2.5 gives each side half of 1000 tokens.
    scanner = DualScanner(
        items_of([4.0] * 6 + [1.0] * 6, [1.0] * 12, [250.0] * 12), mem_tokens=1000, min_left_requests=1
    )
    taken = []
    while (side := scanner.next_side()) != Side.NONE:
        taken.append((scanner.admit(side), side))
    # One left item is let in and has to be earned before the next; the right side fills its part.
    assert sorted(taken) == [(0, Side.LEFT), (10, Side.RIGHT), (11, Side.RIGHT)]
    scanner.advance(0.3)
    assert scanner.next_side() == Side.NONE
    scanner.advance(0.3)
    assert (scanner.next_side(), scanner.admit(Side.LEFT)) == (Side.LEFT, 1)
    scanner.release(11)
    assert scanner.next_side() == Side.RIGHT


def test_the_density_to_reach_is_that_of_what_is_left() -> None:
    """It follows the admissions; the paper keeps it constant."""
    items = items_of([3.73, 2.0, 0.096], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    scanner = DualScanner(items, mem_tokens=60, min_left_requests=1)
    assert scanner.remaining_density() == pytest.approx((3.73 + 2 + 0.096) / 3)
    scanner.admit(Side.RIGHT)
    assert scanner.remaining_density() == pytest.approx((3.73 + 2) / 2)
