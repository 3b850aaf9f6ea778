"""Prefixes that are being computed: who shares one waits a pass and then finds it in the cache.

SGLang's radix cache learns a prompt only when its prefill has run. In planned order the sharers of a new
prefix stand next to each other, so without this rule one prefill batch would compute the prefix many times.
One request leads, the others are skipped until its tokens are in the cache.

Two prompts share uncached tokens only if both match the cache up to the same node and go on alike; so leaders
are found by that node and the next token. Only whole pages are found in the cache, and never the last token
of a prompt: who would wait for less than that would wait for ever, one more in each pass.
"""

from __future__ import annotations

from array import array

from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.scheduling.online_plan import common_prefix_len

# Cache node, namespace (requests of different ones never share), first token that is not cached.
_Place = tuple[int, str, int | None]


class InFlightPrefixes:
    """The uncached parts of admitted prompts, by the place in the cache where they go on."""

    def __init__(self, page_size: int = 1) -> None:
        self._page_size = page_size
        self._leaders: dict[_Place, dict[str, array[int]]] = {}
        self._place_of: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._place_of)

    def lead(self, rid: str, node_id: int, namespace: str, rest: array[int]) -> None:
        """This request's prefill will bring `rest` under the node; once more after each chunk of it.

        Args:
            node_id: number of the deepest node its prompt matches.
            namespace: requests of different namespaces never share.
            rest: token ids that are not cached.
        """
        self.drop(rid)
        place = _place(node_id, namespace, rest)
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

    def shared_len(self, node_id: int, namespace: str, rest: array[int]) -> int:
        """Tokens of `rest` that the cache will have of a leader; 0 if they are too few to wait for."""
        leaders = self._leaders.get(_place(node_id, namespace, rest), {}).values()
        longest = max((common_prefix_len(leader, rest) for leader in leaders), default=0)
        longest = min(longest, len(rest) - 1) // self._page_size * self._page_size
        return longest if longest >= LEAST_SHARED_LEN else 0


def _place(node_id: int, namespace: str, rest: array[int]) -> _Place:
    return node_id, namespace, rest[0] if len(rest) else None
