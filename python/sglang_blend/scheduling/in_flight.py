"""Prefixes that are being computed: who shares one waits a pass and then finds it in the cache.

SGLang's radix cache learns a prompt only when its prefill has run. In planned order the sharers of a new
prefix stand next to each other, so without this rule one prefill batch would compute the prefix many times.
One request leads, the others are skipped until its tokens are in the cache.

Two prompts share uncached tokens only if both match the cache up to the same node and go on alike; so leaders
are found by that node.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.scheduling.online_plan import common_prefix_len


class _Leader(NamedTuple):
    namespace: str
    rest: array[int]


class InFlightPrefixes:
    """The uncached parts of admitted prompts, by the cache node that they hang under."""

    def __init__(self) -> None:
        self._leaders: dict[int, dict[str, _Leader]] = {}
        self._node_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._node_of)

    def lead(self, rid: str, node_id: int, namespace: str, rest: array[int]) -> None:
        """This request's prefill will bring `rest` under the node; once more after each chunk of it.

        Args:
            node_id: number of the deepest node its prompt matches.
            namespace: requests of different namespaces never share.
            rest: token ids that are not cached.
        """
        self.drop(rid)
        self._leaders.setdefault(node_id, {})[rid] = _Leader(namespace, rest)
        self._node_of[rid] = node_id

    def drop(self, rid: str) -> None:
        """Its tokens are in the cache, or will never be."""
        node_id = self._node_of.pop(rid, None)
        if node_id is not None:
            leaders = self._leaders[node_id]
            del leaders[rid]
            if not leaders:
                del self._leaders[node_id]

    def clear(self) -> None:
        """Nothing is in flight."""
        self._leaders.clear()
        self._node_of.clear()

    def shared_len(self, node_id: int, namespace: str, rest: array[int]) -> int:
        """Tokens of `rest` that a leader is computing; 0 if they are too few to wait for."""
        longest = 0
        for leader in self._leaders.get(node_id, {}).values():
            if leader.namespace == namespace and leader.rest[:1] == rest[:1]:
                longest = max(longest, common_prefix_len(leader.rest, rest))
        return longest if longest >= LEAST_SHARED_LEN else 0
