"""Prefixes that are being computed: who shares one waits a pass and then finds it in the cache.

SGLang's radix cache learns a prompt only when its prefill has run. In planned order the sharers of a new
prefix stand next to each other, so without this rule one prefill batch would compute the prefix many times.
One request leads, the others are skipped until its tokens are in the cache.

Two prompts share uncached tokens only if both leave the cache at the same place and go on alike; so leaders
are found by that place. Only whole pages are found in the cache, and never the last token of a prompt: who
would wait for less than that would wait for ever, one more in each pass.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from sglang_blend.core.sharing import LEAST_SHARED_LEN

Rest = TypeVar("Rest")


class InFlightPrefixes(Generic[Rest]):
    """The uncached parts of admitted prompts, by the place where they leave the cache."""

    def __init__(self, common_len: Callable[[Rest, Rest], int], page_size: int = 1) -> None:
        """Nothing is in flight.

        Args:
            common_len: tokens that two uncached parts with the same place have in common from the start.
        """
        self._common_len = common_len
        self._page_size = page_size
        self._leaders: dict[Hashable, dict[str, Rest]] = {}
        self._place_of: dict[str, Hashable] = {}

    def __len__(self) -> int:
        return len(self._place_of)

    def lead(self, rid: str, place: Hashable, rest: Rest) -> None:
        """This request's prefill will bring `rest` into the cache; once more after each chunk of it.

        Args:
            place: where its prompt leaves the cache, and how it goes on there; of requests that can share.
        """
        self.drop(rid)
        self._leaders.setdefault(place, {})[rid] = rest
        self._place_of[rid] = place

    def drop(self, rid: str) -> None:
        """Its tokens are in the cache, or will never be."""
        place = self._place_of.pop(rid, None)
        if place is not None:
            leaders = self._leaders[place]
            del leaders[rid]
            if not leaders:
                del self._leaders[place]

    def clear(self) -> None:
        """Nothing is in flight."""
        self._leaders.clear()
        self._place_of.clear()

    def shared_len(self, place: Hashable, rest: Rest, usable_len: int) -> int:
        """Tokens of `rest` that the cache will have of a leader; 0 if they are too few to wait for.

        Args:
            usable_len: tokens of `rest` that the request takes from a cache at most.
        """
        if (leaders := self._leaders.get(place)) is None:
            return 0
        longest = max(self._common_len(leader, rest) for leader in leaders.values())
        longest = min(longest, usable_len) // self._page_size * self._page_size
        return longest if longest >= LEAST_SHARED_LEN else 0


def common_prefix_len(a: array[int], b: array[int]) -> int:
    """Tokens that two prompts have in common from the start."""
    n = min(len(a), len(b))
    lo, step = 0, 16
    while lo < n:
        hi = min(lo + step, n)
        if a[lo:hi] != b[lo:hi]:
            while hi - lo > 1:
                mid = (lo + hi) // 2
                if a[lo:mid] == b[lo:mid]:
                    lo = mid
                else:
                    hi = mid
            return lo
        lo, step = hi, step * 2
    return n
