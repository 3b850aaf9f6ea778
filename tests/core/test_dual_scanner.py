"""The division of memory, its edge cases, and the accounts of the two scanners."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.core.dual_scanner import (
    DualScanner,
    ScanItems,
    account_side,
    memory_split,
    prefill_budget,
)
from sglang_blend.core.request import Side

densities = st.one_of(st.floats(0, 1e6), st.just(math.inf))


def test_worked_example_of_the_paper() -> None:
    """60 GB of KV memory, densities 3.73 and 0.096, root 1.27: 19.38 and 40.62 GB exactly.

    The paper prints 19.3 and 40.7 (section 5.3, figure 6); its own formula gives 19.38 and 40.62.
    """
    left, right = memory_split(3.73, 0.096, 1.27, 60.0)
    assert left == pytest.approx(19.38, abs=0.005)
    assert right == pytest.approx(40.62, abs=0.005)
    assert (left, right) == pytest.approx((19.3, 40.7), abs=0.1)
    assert left * 3.73 + right * 0.096 == pytest.approx(60 * 1.27)


@given(left=densities, right=densities, root=densities, mem=st.floats(1, 1e9))
@settings(max_examples=500, deadline=None)
def test_parts_are_never_negative_and_make_up_the_memory(
    left: float, right: float, root: float, mem: float
) -> None:
    """For any three densities, infinite ones too; between the ends the mix has the root's density."""
    split = memory_split(left, right, root, mem)
    assert split.mem_left >= 0
    assert split.mem_right >= 0
    assert split.mem_left + split.mem_right == pytest.approx(mem)
    if math.isfinite(left) and right < root < left and left - right > 1e-6 * left:
        mixed = split.mem_left * left + split.mem_right * right
        assert mixed == pytest.approx(mem * root, rel=1e-6)


@pytest.mark.parametrize(
    ("left", "right", "root", "expected"),
    [
        (2.0, 2.0, 2.0, 50),  # equal: any division is right
        (2.0, 1.0, 3.0, 100),  # root above both: the denser side is nearer
        (2.0, 1.0, 0.5, 0),  # root below both
        (math.inf, 0.5, 1.0, 0),  # no output on the left: no KV time at all
        (math.inf, 0.5, math.inf, 100),
        (math.inf, math.inf, math.inf, 50),
        (1.0, math.inf, 2.0, 0),  # ends swapped by shuffled classes
        (0.5, 2.0, 1.0, 200 / 3),
    ],
)
def test_edge_cases_the_paper_leaves_open(left: float, right: float, root: float, expected: float) -> None:
    """Each decision of the module's docstring, by example."""
    assert memory_split(left, right, root, 100.0).mem_left == pytest.approx(expected)


def test_prefill_budget_is_the_papers_steady_state() -> None:
    """N_x requests in decode, C_x prompt tokens a step; no output counts as one token."""
    assert prefill_budget(40_000, 900, 200) == pytest.approx((40, 180))
    assert prefill_budget(1000, 499.5, 0) == pytest.approx((2, 999))


def test_a_left_request_far_over_its_estimate_counts_as_right() -> None:
    """Twice the estimate and more than 32 tokens; right requests stay."""
    assert account_side(Side.LEFT, 100, 200) == Side.LEFT
    assert account_side(Side.LEFT, 100, 201) == Side.RIGHT
    assert account_side(Side.LEFT, 2, 32) == Side.LEFT
    assert account_side(Side.LEFT, 2, 33) == Side.RIGHT
    assert account_side(Side.RIGHT, 1, 1000) == Side.RIGHT


def items_of(compute: list[float], memory: list[float], peak: list[float]) -> ScanItems:
    """Items of one request each."""
    columns = [np.array(column, np.float64) for column in (compute, memory, peak, peak, peak)]
    return ScanItems(*columns, num_steps=np.ones(len(compute)))


jobs = st.lists(
    st.tuples(st.floats(0.01, 10), st.one_of(st.just(0.0), st.floats(0.01, 10)), st.floats(1, 2000)),
    min_size=1,
    max_size=30,
)


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
        if side == Side.LEFT and data.draw(st.booleans()):
            scanner.relocate(item)
        scanner.check_integrity()
        used = scanner.used_tokens(Side.LEFT) + scanner.used_tokens(Side.RIGHT)
        assert used <= mem * (1 + 1e-9) or scanner.num_running == 1
    assert sorted(seen) == list(range(len(job)))
    assert scanner.next_side() == Side.NONE


def test_an_early_finish_admits_the_next_and_relocation_frees_the_left_part() -> None:
    """Online adaptation of the paper, section 5.4: accounts follow what really happens."""
    # Half dense (4), half sparse (1); the mix of 2.5 gives each side half of 1000 tokens.
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
    scanner.relocate(0)
    # The under-estimated request fills the right part now, and the left one has room once it is earned.
    assert scanner.used_tokens(Side.RIGHT) == 500
    assert scanner.next_side() == Side.NONE
    scanner.advance(2.0)
    assert scanner.next_side() == Side.LEFT
    assert scanner.next_side(free_tokens=100) == Side.NONE


def test_with_a_constant_root_density_the_split_is_the_papers() -> None:
    """`root_density` given: rho(root) does not follow what is left."""
    items = items_of([3.73, 2.0, 0.096], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    scanner = DualScanner(items, mem_tokens=60, min_left_requests=1, root_density=1.27)
    assert scanner.split().mem_left == pytest.approx(19.38, abs=0.005)
    following = DualScanner(items, mem_tokens=60, min_left_requests=1)
    assert following.remaining_density() == pytest.approx((3.73 + 2 + 0.096) / 3)
