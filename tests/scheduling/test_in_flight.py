"""One request leads, its sharers wait until its prefix is in the cache."""

from __future__ import annotations

from array import array

from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.scheduling.in_flight import InFlightPrefixes, common_prefix_len

PREFIX = list(range(LEAST_SHARED_LEN))


def ids(*tokens: int) -> array[int]:
    return array("q", tokens)


def in_flight(page_size: int = 1) -> InFlightPrefixes[array[int]]:
    return InFlightPrefixes(common_prefix_len, page_size)


def shared_len(prefixes: InFlightPrefixes[array[int]], place: object, rest: array[int]) -> int:
    return prefixes.shared_len(place, rest, len(rest) - 1)


def test_a_sharer_waits_until_the_leader_is_cached() -> None:
    prefixes = in_flight()
    prefixes.lead("a", 1, ids(*PREFIX, 50))
    sharer = ids(*PREFIX, 60)
    assert shared_len(prefixes, 1, sharer) == LEAST_SHARED_LEN
    prefixes.drop("a")
    assert shared_len(prefixes, 1, sharer) == 0
    assert len(prefixes) == 0


def test_others_do_not_wait() -> None:
    prefixes = in_flight()
    prefixes.lead("a", 1, ids(*PREFIX, 50))
    assert shared_len(prefixes, 1, ids(*PREFIX[:-1], 99, 99)) == 0, "too few tokens"
    assert shared_len(prefixes, 2, ids(*PREFIX, 50)) == 0, "another place"
    assert prefixes.shared_len(1, ids(*PREFIX, 60), LEAST_SHARED_LEN - 1) == 0, "it takes no more than that"


def test_a_leader_moves_on_with_each_chunk() -> None:
    prefixes = in_flight()
    prefixes.lead("a", 1, ids(*range(100)))
    prefixes.lead("a", 2, ids(*range(40, 100)))
    assert shared_len(prefixes, 1, ids(*range(100))) == 0
    assert shared_len(prefixes, 2, ids(*range(40, 90), 7)) == 50


def test_nobody_waits_for_what_the_cache_will_not_give() -> None:
    """It holds whole pages, and finds all but the last token of a prompt."""
    prefixes = in_flight(page_size=64)
    prefixes.lead("a", 1, ids(*range(300)))
    assert shared_len(prefixes, 1, ids(*range(63), *[7] * 100)) == 0
    assert shared_len(prefixes, 1, ids(*range(100), *[7] * 100)) == 64
    assert shared_len(prefixes, 1, ids(*range(64))) == 0
    assert shared_len(prefixes, 1, ids(*range(65))) == 64


def test_common_prefix_len_is_that_of_the_obvious_loop() -> None:
    for n in (0, 1, 15, 16, 17, 100):
        for differ in range(n + 1):
            a, b = list(range(n)), list(range(n))
            b[differ:] = [-1] * (n - differ)
            assert common_prefix_len(ids(*a), ids(*b)) == differ
