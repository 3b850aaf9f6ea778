"""Who waits, by side, in planned order; and which side goes next."""

import math
import random
import time

import pytest

from sglang_blend.core.request import Side
from sglang_blend.scheduling.balance import SideBalance
from sglang_blend.scheduling.lengths import PlannedLen
from sglang_blend.scheduling.request_state import RequestState, WaitingRequests


def request(rank: int, side: Side = Side.NONE, **fields: float) -> RequestState:
    """A waiting request; 100 prompt tokens and 10 to come unless told otherwise."""
    output = fields.pop("output_len", 10)
    values = {"prompt_len": 100, "max_new_tokens": 1000, "density": 1.0, "root_density": 1.0} | fields
    return RequestState(
        handle=None,
        rid=f"r{rank:03d}",
        key=(1, 0, rank, rank),
        side=side,
        expected=PlannedLen(output, output),
        planned_len=output,
        **values,  # type: ignore[arg-type]
    )


def line(waiting: WaitingRequests, side: Side) -> list[float]:
    ranks: list[float] = []
    while (ahead := waiting.ahead(side, len(ranks))) is not None:
        ranks.append(ahead.key[2])
    return ranks


def test_each_side_stands_in_planned_order_however_they_come_and_go() -> None:
    rng = random.Random(1)
    ranks = list(range(50))
    rng.shuffle(ranks)
    waiting = WaitingRequests()
    for rank in ranks:
        waiting.add(request(rank, Side.RIGHT if rank % 3 == 0 else Side.LEFT))
    for rank in ranks[:20]:
        waiting.remove(f"r{rank:03d}")
    left = sorted(rank for rank in ranks[20:] if rank % 3)
    right = sorted(rank for rank in ranks[20:] if rank % 3 == 0)
    assert (line(waiting, Side.LEFT), line(waiting, Side.RIGHT)) == (left, right)
    assert len(waiting) == 30


@pytest.mark.parametrize("others", [0, 500], ids=["half of them", "a few of many"])
def test_requests_can_be_given_other_places(others: int) -> None:
    waiting = WaitingRequests()
    for rank in (1, 2, 3, 4, *range(10, 10 + others)):
        waiting.add(request(rank))
    waiting.move({"r001": ((1, 0, 9, 1), Side.RIGHT), "r003": ((1, 0, 0, 3), Side.LEFT)})
    assert line(waiting, Side.LEFT) == [0, 2, 4, *range(10, 10 + others)]
    assert line(waiting, Side.RIGHT) == [9]
    assert waiting.remove("r001").side == Side.RIGHT


@pytest.mark.alone
def test_giving_many_requests_places_takes_about_as_long_for_each() -> None:
    """A pool of the online plan may be all that waits; a deletion from a list moves what stands behind."""

    def seconds(num: int) -> float:
        waiting = WaitingRequests()
        for rank in range(num):
            waiting.add(request(rank))
        ranks = random.Random(0).sample(range(num), num)
        places = {f"r{old:03d}": ((1, 1, new, old), Side.LEFT) for old, new in enumerate(ranks)}
        start = time.perf_counter()
        waiting.move(places)
        return time.perf_counter() - start

    assert seconds(100_000) < 40 * seconds(10_000)


@pytest.mark.parametrize("output_len", [1, 3, 200])
def test_a_planned_output_is_expected_as_long_as_the_plan_says(output_len: int) -> None:
    """How long one goes on that outruns its estimate is another question: that is at least 8 tokens."""
    waiting = request(0, output_len=output_len)
    assert waiting.mean_len == output_len
    assert waiting.peak_tokens == 100 + output_len
    assert waiting.end_len(1) == max(output_len, 8)


def test_the_memory_of_the_two_sides_follows_the_densities() -> None:
    """The paper's example: densities 3.73 and 0.096 around 1.27 give 19.4 and 40.6 of 60 GB."""
    left = request(0, Side.LEFT, density=3.73, root_density=1.27)
    right = request(1, Side.RIGHT, density=0.096, root_density=1.27)
    split = SideBalance(60_000).split(left, right)
    assert split.mem_left == pytest.approx(19_383, rel=0.001)
    assert split.mem_right == pytest.approx(40_617, rel=0.001)


@pytest.mark.parametrize(
    ("used_left", "used_right", "side"),
    [
        (0, 0, Side.RIGHT),
        (0, 6000, Side.RIGHT),
        (0, 6600, Side.LEFT),
        (3320, 6600, Side.RIGHT),
        (3300, 9000, Side.LEFT),
    ],
)
def test_the_right_side_fills_its_part_first_then_the_left(
    used_left: int, used_right: int, side: Side
) -> None:
    """6,667 of 10,000 tokens are the right side's; when both are full, who uses less of its part goes on."""
    balance = SideBalance(10_000)
    balance.used.update({Side.LEFT: used_left, Side.RIGHT: used_right})
    left = request(0, Side.LEFT, density=2.0)
    right = request(1, Side.RIGHT, density=0.5)
    assert balance.next_side(left, right) == side


def test_an_exhausted_side_leaves_everything_to_the_other() -> None:
    balance = SideBalance(10_000)
    balance.used[Side.LEFT] = 20_000.0
    assert balance.next_side(request(0, Side.LEFT), None) == Side.LEFT
    assert balance.next_side(None, request(0, Side.RIGHT)) == Side.RIGHT
    assert balance.next_side(None, None) == Side.NONE


def test_both_sides_come_to_their_parts_before_one_exceeds_its_own() -> None:
    balance = SideBalance(2_000)
    left = request(0, Side.LEFT, density=2.0, root_density=1.0)
    right = request(1, Side.RIGHT, density=0.5, root_density=1.0)
    mem = balance.split(left, right)
    assert math.isclose(sum(mem), 2_000)
    while sum(balance.used.values()) + left.peak_tokens <= 2_000:
        balance.used[balance.next_side(left, right)] += left.peak_tokens
    assert balance.used[Side.LEFT] == pytest.approx(mem.mem_left, abs=left.peak_tokens)
    assert balance.used[Side.RIGHT] == pytest.approx(mem.mem_right, abs=left.peak_tokens)


def test_whoever_is_on_no_side_runs_in_its_place_of_the_plan() -> None:
    """Before the side that comes later, whatever room that has, and after the one that comes first."""
    balance = SideBalance(10_000)
    assert balance.next_side(request(0, Side.NONE), request(1, Side.RIGHT)) == Side.LEFT
    assert balance.next_side(request(1, Side.NONE), request(0, Side.RIGHT)) == Side.RIGHT
    balance.used[Side.RIGHT] = 20_000.0
    assert balance.next_side(request(1, Side.NONE), request(0, Side.RIGHT)) == Side.RIGHT
