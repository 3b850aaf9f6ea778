"""One request leads, its sharers wait until its prefix is in the cache."""

from __future__ import annotations

from array import array

from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.scheduling.in_flight import InFlightPrefixes
from sglang_blend.scheduling.online_plan import common_prefix_len

PREFIX = list(range(LEAST_SHARED_LEN))


def ids(*tokens: int) -> array[int]:
    return array("q", tokens)


def test_a_sharer_waits_until_the_leader_is_cached() -> None:
    in_flight = InFlightPrefixes()
    in_flight.lead("a", 1, "", ids(*PREFIX, 50))
    sharer = ids(*PREFIX, 60)
    assert in_flight.shared_len(1, "", sharer) == LEAST_SHARED_LEN
    in_flight.drop("a")
    assert in_flight.shared_len(1, "", sharer) == 0
    assert len(in_flight) == 0


def test_others_do_not_wait() -> None:
    in_flight = InFlightPrefixes()
    in_flight.lead("a", 1, "", ids(*PREFIX, 50))
    assert in_flight.shared_len(1, "", ids(*PREFIX[:-1], 99, 99)) == 0, "too few tokens"
    assert in_flight.shared_len(2, "", ids(*PREFIX, 50)) == 0, "another node of the cache"
    assert in_flight.shared_len(1, "adapter", ids(*PREFIX, 50)) == 0, "another namespace"


def test_a_leader_moves_on_with_each_chunk() -> None:
    in_flight = InFlightPrefixes()
    in_flight.lead("a", 1, "", ids(*range(100)))
    in_flight.lead("a", 2, "", ids(*range(40, 100)))
    assert in_flight.shared_len(1, "", ids(*range(100))) == 0
    assert in_flight.shared_len(2, "", ids(*range(40, 90), 7)) == 50


def test_nobody_waits_for_what_the_cache_will_not_give() -> None:
    """It holds whole pages, and finds all but the last token of a prompt."""
    in_flight = InFlightPrefixes(page_size=64)
    in_flight.lead("a", 1, "", ids(*range(300)))
    assert in_flight.shared_len(1, "", ids(*range(63), *[7] * 100)) == 0
    assert in_flight.shared_len(1, "", ids(*range(100), *[7] * 100)) == 64
    assert in_flight.shared_len(1, "", ids(*range(64))) == 0
    assert in_flight.shared_len(1, "", ids(*range(65))) == 64


def test_common_prefix_len_is_that_of_the_obvious_loop() -> None:
    for n in (0, 1, 15, 16, 17, 100):
        for differ in range(n + 1):
            a, b = list(range(n)), list(range(n))
            b[differ:] = [-1] * (n - differ)
            assert common_prefix_len(ids(*a), ids(*b)) == differ
