"""The prefix tree as the simulator needs it: shared segments only, as arrays.

A segment is a run of prompt tokens that at least two requests share up to its end. What a request has alone
(the rest of its prompt, and its output) is not in the tree but its `private_len`.
`segments_of(build_prefix_tree(table))` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.shared_reads import read_len
from sglang_blend.cost.roofline import RooflineCost


class SegmentLists(NamedTuple):
    """Columns of a `SegmentTree` as lists, which a step loop reads faster."""

    parent: list[int]
    seg_len: list[int]
    end_len: list[int]
    leaf: list[int]


@dataclass(frozen=True, kw_only=True)
class SegmentTree:
    """Shared prompt segments of a workload.

    Attributes:
        parent: (m,) int64, parents stand before their children; node 0 is the root and its own parent.
        end_len: (m,) int64, tokens from the root to the end of the segment; 0 for the root.
        leaf: (n,) int64, the deepest shared segment on each request's prompt.
        prompt_len: (n,) int64, tokens.
    """

    parent: IntArray
    end_len: IntArray
    leaf: IntArray
    prompt_len: IntArray

    @cached_property
    def seg_len(self) -> IntArray:
        """(m,) int64, tokens of each segment; 0 for the root."""
        return self.end_len - self.end_len[self.parent]

    @cached_property
    def private_len(self) -> IntArray:
        """(n,) int64, prompt tokens that no other request shares."""
        return self.prompt_len - self.end_len[self.leaf]

    @cached_property
    def num_requests(self) -> IntArray:
        """(m,) int64, requests whose prompt runs through the segment."""
        count = np.bincount(self.leaf, minlength=len(self.parent)).astype(np.int64)
        for node in range(len(count) - 1, 0, -1):
            count[self.parent[node]] += count[node]
        return count

    @cached_property
    def place(self) -> IntArray:
        """(n,) int64, each request's place in an order in which those of a segment stand side by side."""
        first, _ = self.spans
        by_leaf = np.argsort(self.leaf, kind="stable")
        start = np.searchsorted(self.leaf[by_leaf], self.leaf[by_leaf])
        place = np.empty(len(self.leaf), np.int64)
        place[by_leaf] = first[self.leaf[by_leaf]] + np.arange(len(by_leaf)) - start
        return place

    @cached_property
    def spans(self) -> tuple[IntArray, IntArray]:
        """(m,) int64 each, the first `place` of a segment's requests and the one behind its last."""
        own = np.bincount(self.leaf, minlength=len(self.parent))
        count = self.num_requests
        first = np.zeros(len(self.parent), np.int64)
        free = own.astype(np.int64)  # the next free place behind a segment's own requests, from its first
        for node in range(1, len(first)):
            parent = self.parent[node]
            first[node] = first[parent] + free[parent]
            free[parent] += count[node]
        return first, first + count

    def spread_compute_s(self, cost: RooflineCost, output_len: FloatArray) -> FloatArray:
        """(n,) float64, compute seconds with the cost of every segment spread over its requests.

        As `core.workload.Workload.leaf_compute_s`.
        """
        alone: FloatArray = cost.compute_s(self.prompt_len, output_len)  # type: ignore[arg-type]
        segment_s = cost.extend_compute_s(self.end_len - self.seg_len, self.seg_len)
        others_s = segment_s * (1.0 - 1.0 / np.maximum(self.num_requests, 1))
        others_s[:1] = 0.0
        for node in range(1, len(others_s)):
            others_s[node] += others_s[self.parent[node]]
        return alone - others_s[self.leaf]

    @cached_property
    def lists(self) -> SegmentLists:
        """The columns as lists; nobody writes into them."""
        return SegmentLists(
            self.parent.tolist(), self.seg_len.tolist(), self.end_len.tolist(), self.leaf.tolist()
        )

    def without_unread(self) -> SegmentTree:
        """The same tree less the segments that no request runs through."""
        kept = self.num_requests > 0
        kept[0] = True
        number = np.cumsum(kept) - 1
        return SegmentTree(
            parent=number[self.parent[kept]],
            end_len=self.end_len[kept],
            leaf=number[self.leaf],
            prompt_len=self.prompt_len,
        )

    @property
    def unique_tokens(self) -> int:
        """Prompt tokens when every segment is computed once."""
        return int(self.seg_len.sum() + self.private_len.sum())

    def prefill_compute_s(self, cost: RooflineCost) -> float:
        """Compute seconds of all prompts when every segment is computed once."""
        shared = cost.extend_compute_s(self.end_len - self.seg_len, self.seg_len).sum()
        return float(shared + cost.extend_compute_s(self.end_len[self.leaf], self.private_len).sum())

    def read_len(self, cost: RooflineCost, output_len: IntArray | FloatArray) -> FloatArray:
        """(n,) float64, prompt tokens that each request pays for in a decode step."""
        return read_len(
            cost,
            prompt_len=self.prompt_len,
            output_len=output_len,
            leaf_node=self.leaf,
            node_parent=self.parent,
            node_depth=self.end_len,
        )


def segments_of(tree: PrefixTree) -> SegmentTree:
    """Takes the shared segments of a prefix tree: its nodes, and for each row the node its leaf hangs on."""
    leaf = np.empty(tree.n, np.int64)
    leaf[tree.sequence] = tree.leaf_parent
    prompt_len = np.empty(tree.n, np.int64)
    prompt_len[tree.sequence] = tree.prompt_len
    return SegmentTree(parent=tree.node_parent, end_len=tree.node_depth, leaf=leaf, prompt_len=prompt_len)
