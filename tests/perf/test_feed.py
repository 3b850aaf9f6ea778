"""The two-ended feed keeps each side's order, follows the memory it holds, and gives each request once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.core.request import Schedule, Side
from sglang_blend.perf.feed import TwoEndFeed


def two_sided(num_left: int, num_right: int, left_share: float) -> Schedule:
    """Left requests first by number, then right ones; 10 output tokens each."""
    n = num_left + num_right
    side = np.array([Side.LEFT] * num_left + [Side.RIGHT] * num_right, dtype=np.int8)
    return Schedule(
        order="dual-scan",
        rank=np.arange(n),
        side=side,
        est_output_len=np.full(n, 10),
        admission_output_len=np.full(n, 10),
        mem_share=np.where(side == Side.LEFT, left_share, 1.0 - left_share),
        unit=np.arange(n),
        sharing_kept=1.0,
        root_density=1.0,
        seed=0,
        config={},
    )


def test_sides_fill_in_the_ratio_of_their_shares():
    """A quarter of the pool for the left side: about one left request in four, while nothing finishes."""
    schedule = two_sided(50, 50, 0.25)
    feed = TwoEndFeed(schedule, np.full(100, 90), 10_000)
    taken = []
    for _ in range(40):
        request = feed.peek()
        feed.pop(request)
        taken.append(request)
    assert sum(request < 50 for request in taken) == 10


def test_a_side_whose_requests_finish_early_is_served_next():
    """Online adaptation: freed memory of the left side goes to the left side."""
    feed = TwoEndFeed(two_sided(10, 10, 0.5), np.full(20, 90), 10_000)
    for _ in range(8):
        feed.pop(feed.peek())
    for request in (0, 1, 2):
        feed.release(request)
    following = []
    for _ in range(3):
        following.append(feed.peek())
        feed.pop(following[-1])
    assert following == [4, 5, 6]


@given(
    num_left=st.integers(0, 8),
    num_right=st.integers(0, 8),
    share=st.floats(0, 1),
    returns=st.lists(st.integers(0, 15), max_size=6),
)
def test_every_request_comes_once_in_its_sides_order(num_left, num_right, share, returns):
    """Also when some are given back on the way; those come again, before later ones of their side."""
    n = num_left + num_right
    feed = TwoEndFeed(two_sided(num_left, num_right, share), np.full(n, 5), 100)
    taken: list[int] = []
    for back in returns:
        if (request := feed.peek()) is not None:
            feed.pop(request)
            taken.append(request)
        if back in taken:
            taken.remove(back)
            feed.give_back(back)
    rest = []
    while (request := feed.peek()) is not None:
        feed.pop(request)
        rest.append(request)
    assert sorted(taken + rest) == list(range(n))
    for low, high in ((0, num_left), (num_left, n)):
        of_side = [request for request in rest if low <= request < high]
        assert of_side == sorted(of_side)
