"""Which shared segments the running batch reads, and what reading each of them once saves a step.

`saved_tokens` is kept as requests join and leave decode, one path of the tree each time.
"""

from __future__ import annotations

from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.segments import SegmentTree


class SharedReaders:
    """Readers of each segment in decode.

    Attributes:
        saved_tokens: KV tokens that a decode step need not read, less what grouping costs; 0 where the cost
            model's attention reads for each request.
    """

    def __init__(self, tree: SegmentTree, cost: RooflineCost) -> None:
        self.saved_tokens = 0.0
        self._break_even = cost.shared_reads
        if self._break_even is not None:
            self._parent, self._seg_len, _, self._leaf = tree.lists
            self._readers = [0] * len(self._parent)

    def join(self, request: int) -> None:
        """A request begins to decode."""
        self._add(request, 1)

    def leave(self, request: int) -> None:
        """A request decodes no more."""
        self._add(request, -1)

    def _add(self, request: int, change: int) -> None:
        if self._break_even is None:
            return
        node = self._leaf[request]
        while node:
            before, length = self._readers[node], self._seg_len[node]
            self._readers[node] = before + change
            self.saved_tokens += self._gain(before + change, length) - self._gain(before, length)
            node = self._parent[node]

    def _gain(self, num_readers: int, num_tokens: int) -> float:
        assert self._break_even is not None, "reads are shared"
        return max(0.0, self._break_even.gain_tokens(num_readers, num_tokens)) if num_readers > 1 else 0.0
