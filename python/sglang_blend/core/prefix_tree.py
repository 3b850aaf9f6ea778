"""The prefix tree of a job on flat arrays: a leaf is a request, a node is a prefix that requests share.

    tree = build_prefix_tree(table, page_size=1)
    tree.sequence          # rows in depth-first order: leaf i is request tree.sequence[i]
    tree.lcp               # tokens that leaf i shares with leaf i - 1
    tree.subtree_sum(work) # one number a node, no walk

Every node is a range of leaves, so a sum over a subtree is the difference of two prefix sums, and whatever
needs an ancestor jumps over doubling distances. Nothing recurses; the only Python objects are arrays.
`tests/oracles/naive_prefix_tree.py` is the obvious version that the tests hold this one against.

SGLang matches whole pages: with `page_size` above 1 a shared length counts only up to the last full page, and
nodes that differ only inside a page become one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.request import RequestTable
from sglang_blend.core.token_sort import TokenSort, sort_by_tokens
from sglang_blend.errors import PlanError


@dataclass(frozen=True, kw_only=True, eq=False)
class PrefixTree:
    """Leaves in depth-first order and internal nodes in preorder. Node 0 is the root, of depth 0.

    Attributes:
        page_size: tokens of a KV page; every shared length is a multiple of it.
        sequence: (n,) int64, the row of each leaf; siblings in order of their next token, equal prompts by
            rid.
        prompt_len: (n,) int64, tokens of each leaf's prompt.
        lcp: (n,) int64, tokens that leaf `i` shares with leaf `i - 1`; `lcp[0]` is 0.
        leaf_parent: (n,) int64, the node each leaf hangs on.
        node_start, node_end: (m,) int64, the leaves under a node are `[start, end)`.
        node_depth: (m,) int64, tokens from the root to the end of the node's prefix.
        node_parent: (m,) int64, always a smaller number; the root is its own parent.
    """

    page_size: int
    sequence: IntArray
    prompt_len: IntArray
    lcp: IntArray
    leaf_parent: IntArray
    node_start: IntArray
    node_end: IntArray
    node_depth: IntArray
    node_parent: IntArray

    @property
    def n(self) -> int:
        """Number of leaves."""
        return len(self.sequence)

    @property
    def num_nodes(self) -> int:
        """Number of internal nodes, the root included."""
        return len(self.node_start)

    @cached_property
    def leaf_of_row(self) -> IntArray:
        """(n,) int64, the leaf that holds each row of the table."""
        leaf = np.empty(self.n, np.int64)
        leaf[self.sequence] = np.arange(self.n)
        return leaf

    @cached_property
    def node_num_leaves(self) -> IntArray:
        """(m,) int64, requests under each node."""
        return self.node_end - self.node_start

    @cached_property
    def node_num_children(self) -> IntArray:
        """(m,) int64, nodes and leaves that hang directly on each node."""
        leaves = np.bincount(self.leaf_parent, minlength=self.num_nodes)
        return leaves + np.bincount(self.node_parent[1:], minlength=self.num_nodes)

    @cached_property
    def leaf_depth(self) -> IntArray:
        """(n,) int64, tokens of each prompt that hang on internal nodes; the rest is the leaf's own."""
        return self.node_depth[self.leaf_parent]

    @cached_property
    def gap_node(self) -> IntArray:
        """(n,) int64, the deepest node over both leaf `i` and leaf `i - 1`; the root for leaf 0."""
        gap_node = self.leaf_parent.copy()
        start, shallowest = np.unique(self.node_start, return_index=True)
        gap_node[start[: self.n]] = self.node_parent[shallowest[: self.n]]
        return gap_node

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts, shared ones counted each time."""
        return int(self.prompt_len.sum())

    @property
    def num_shared_tokens(self) -> int:
        """Prompt tokens that a cache which forgets nothing would not compute."""
        return int(self.lcp.sum())

    @property
    def num_unique_tokens(self) -> int:
        """Tokens in the tree: what must be computed at least."""
        return self.num_prompt_tokens - self.num_shared_tokens

    @property
    def sharing_possible(self) -> float:
        """Share (0 to 1) of the prompt tokens that a perfect prefix cache would not compute."""
        return self.num_shared_tokens / self.num_prompt_tokens if self.n else 0.0

    def subtree_sum(self, of_leaf: NDArray[np.float64] | IntArray) -> FloatArray:
        """Sum over the leaves of each node.

        Args:
            of_leaf: (n,) one number a leaf.

        Returns:
            (m,) float64.
        """
        upto = prefix_sum(of_leaf)
        return upto[self.node_end] - upto[self.node_start]

    def subtree_saving(self, saved_by_lcp: FloatArray) -> FloatArray:
        """What sharing inside each node saves: one first leaf pays, the others pay from their `lcp` on.

        Args:
            saved_by_lcp: (n,) float64, what leaf `i` saves when its first `lcp[i]` tokens are cached.

        Returns:
            (m,) float64; the prefix down to the node is paid once and saved by all but one of its leaves.
        """
        upto = prefix_sum(saved_by_lcp)
        first_pays = np.minimum(self.node_start + 1, self.node_end)
        saving: FloatArray = upto[self.node_end] - upto[first_pays]
        return saving

    def nearest_marked(self, marked: NDArray[np.bool_]) -> IntArray:
        """(m,) int64, the deepest marked node on the way from each node up; the root where there is none.

        Args:
            marked: (m,) bool.
        """
        nearest = np.where(marked, np.arange(self.num_nodes), self.node_parent)
        while True:
            jumped = nearest[nearest]
            if np.array_equal(jumped, nearest):
                return nearest
            nearest = jumped

    def sum_to_root(self, of_node: NDArray[np.float64] | IntArray) -> FloatArray:
        """(m,) float64, sum of `of_node` over each node and its ancestors, the root's own value left out."""
        return self._to_root(of_node, np.add)

    def max_to_root(self, of_node: NDArray[np.float64] | IntArray) -> FloatArray:
        """(m,) float64, largest `of_node` on the way to the root; values are 0 or more, the root counts 0."""
        return self._to_root(of_node, np.maximum)

    def _to_root(self, of_node: NDArray[np.float64] | IntArray, combine: np.ufunc) -> FloatArray:
        # After k rounds each entry covers 2**k nodes of its path; the root's 0 is neutral.
        combined = np.array(of_node, np.float64)
        combined[:1] = 0
        jump = self.node_parent
        while jump.any():
            combined = combine(combined, combined[jump])
            jump = jump[jump]
        return combined

    def check_integrity(self) -> None:
        """Leaves and nodes fit together; a few vectorised passes.

        Raises:
            AssertionError: they do not, which is a bug of this package.
        """
        child, parent = np.arange(1, self.num_nodes), self.node_parent[1:]
        assert (parent < child).all(), "a node comes before its parent"
        assert (self.node_start[child] >= self.node_start[parent]).all(), "a node begins before its parent"
        assert (self.node_end[child] <= self.node_end[parent]).all(), "a node ends after its parent"
        assert (self.node_depth[child] > self.node_depth[parent]).all(), "a node adds no token"
        assert (self.node_depth % self.page_size == 0).all(), "a node ends inside a page"
        assert (self.leaf_depth <= self.prompt_len).all(), "a leaf is shorter than its parent's prefix"
        own = self.num_prompt_tokens - int(self.leaf_depth.sum())
        segments = int((self.node_depth - self.node_depth[self.node_parent]).sum())
        assert own + segments == self.num_unique_tokens, (own, segments, self.num_unique_tokens)


def build_prefix_tree(table: RequestTable, *, page_size: int = 1) -> PrefixTree:
    """The prefix tree of all prompts, O(shared tokens + n log n).

    Args:
        table: the requests; different namespaces share nothing.
        page_size: tokens of a KV page, 1 or more.

    Raises:
        PlanError: the page size is below 1.
    """
    if page_size < 1:
        raise PlanError(f"page_size is {page_size}; 1 or more tokens are allowed")
    by_token = sort_by_tokens(table)
    depth = by_token.depth // page_size * page_size
    group_of_node, node_of_group = _merge_equal_depths(by_token, depth)
    return PrefixTree(
        page_size=page_size,
        sequence=by_token.sequence,
        prompt_len=table.prompt_len[by_token.sequence],
        lcp=by_token.lcp // page_size * page_size,
        leaf_parent=node_of_group[by_token.leaf_group],
        node_start=by_token.start[group_of_node],
        node_end=by_token.end[group_of_node],
        node_depth=depth[group_of_node],
        node_parent=node_of_group[by_token.parent[group_of_node]],
    )


def _merge_equal_depths(by_token: TokenSort, depth: IntArray) -> tuple[IntArray, IntArray]:
    """Groups that add no full page over their parent become one node with it.

    Returns:
        The group of each node, nodes in preorder, and the node of each group.
    """
    numbers = np.arange(len(depth))
    kept = depth > depth[by_token.parent]
    kept[0] = True
    nearest = np.where(kept, numbers, by_token.parent)
    while not np.array_equal(jumped := nearest[nearest], nearest):
        nearest = jumped
    group_of_node = numbers[kept]
    # Nodes that begin at the same leaf are nested, the shallow one outside.
    preorder = np.lexsort((depth[group_of_node], by_token.start[group_of_node]))
    group_of_node = group_of_node[preorder]
    node_of_group = np.empty(len(depth), np.int64)
    node_of_group[group_of_node] = np.arange(len(group_of_node))
    return group_of_node, node_of_group[nearest]


def prefix_sum(values: NDArray[np.float64] | IntArray) -> FloatArray:
    """(n + 1,) float64, sum of the values before each index."""
    upto = np.zeros(len(values) + 1)
    np.cumsum(values, out=upto[1:])
    return upto
