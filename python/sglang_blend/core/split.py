"""Cuts the prefix tree into units that may run apart, and sorts it by density layer by layer.

The paper sorts every child list by density (Algorithm 1), then splits nodes whose sharing is worth little
(Algorithm 2 and section 5.2), and re-sorts. Its Algorithm 2 is one top-down pass that breaks whole nodes
under a threshold; its text detaches single outliers until 99% of the sharing is reached. Both cannot be
literal. Decided here:

- A budget of tokens is spent, at most `sharing_loss` of the tokens that sharing can save.
- Breaking a node lets its children run apart. It is expected to cost `(children - 1)` times the depth of the
  node, where a segment counts only as far as requests outside its subtree can come between (`1 - leaves /
  n`): a chat template under which the whole job hangs costs nothing to break.
- Nodes are broken in order of cost over gain, parents first, until the budget is spent. The order asks for
the
  gain: the dual scan gains the work that is on the wrong side of the job's density inside the node.
- Then single leaves whose density is on the other side than their unit's are detached with what is left,
again
  by cost over gain.
- Costs are expectations, so the order measures what it really keeps and asks again with half the budget if
that
  is too little. With no budget only what is free is broken.

Source: BlendServe, arXiv:2411.16102, sections 5.1, 5.2 and A.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost import FloatArray, IntArray
from sglang_blend.core.density import Load
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.sharing import lowest_between
from sglang_blend.core.workload import Workload

# Part of the budget that breaking whole nodes may spend; the rest detaches single leaves.
_SHARE_FOR_NODES = 0.5


class Units(NamedTuple):
    """Subtrees (less what was detached from them) that stay together, numbered from 0.

    Attributes:
        of_leaf: (n,) int64, the unit of each leaf.
        load: (u,) load of each unit, shared prefixes inside the unit computed once.
    """

    of_leaf: IntArray
    load: Load

    @property
    def num_units(self) -> int:
        """How many there are."""
        return len(self.load.memory_s)


def layer_wise_order(workload: Workload) -> IntArray:
    """Leaves with every child list sorted by falling density: compute-intensive first, memory-intensive last.

    Nodes count with the sharing inside them, leaves with their part of what they share; ties keep tree order.

    Returns:
        (n,) int64, leaves.

    Source: BlendServe, Algorithm 1. No recursion: each item's place is the sum of its offsets among its
    siblings, from the root down.
    """
    tree = workload.tree
    child = np.arange(1, tree.num_nodes)
    density = np.concatenate([workload.node_load.density[1:], workload.leaf_density])
    parent = np.concatenate([tree.node_parent[1:], tree.leaf_parent])
    start = np.concatenate([tree.node_start[1:], np.arange(tree.n)])
    size = np.concatenate([tree.node_num_leaves[1:], np.ones(tree.n, np.int64)])
    by_density = np.lexsort((start, -density, parent))
    before = np.cumsum(size[by_density]) - size[by_density]
    sorted_parent = parent[by_density]
    first = np.flatnonzero(np.diff(sorted_parent, prepend=-1))
    num_siblings = np.diff(first, append=len(sorted_parent))
    offset = np.empty(len(size), np.int64)
    offset[by_density] = before - np.repeat(before[first], num_siblings)
    node_offset = np.zeros(tree.num_nodes)
    node_offset[child] = offset[: len(child)]
    place = tree.sum_to_root(node_offset).astype(np.int64)[tree.leaf_parent] + offset[len(child) :]
    leaves = np.empty(tree.n, np.int64)
    leaves[place] = np.arange(tree.n)
    return leaves


def expected_depth(tree: PrefixTree) -> FloatArray:
    """(m,) float64, tokens expected to be computed again when a subtree below the node is run elsewhere."""
    segment = tree.node_depth - tree.node_depth[tree.node_parent]
    return tree.sum_to_root(segment * (1.0 - tree.node_num_leaves / max(tree.n, 1)))


def choose_breaks(tree: PrefixTree, gain: FloatArray, budget: float) -> NDArray[np.bool_]:
    """Nodes whose children may run apart; the parents of a broken node are broken, the root always is.

    Args:
        gain: (m,) float64, 0 or more, in any unit; a node without gain is broken only on the way to another.
        budget: tokens that may be expected to be computed again.

    Returns:
        (m,) bool.
    """
    cost = (tree.node_num_children - 1) * expected_depth(tree)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where(gain > 0, cost / gain, np.inf)
    price = tree.max_to_root(price)
    # The dearest ancestor decides, and preorder breaks ties, so parents come first.
    by_price = np.argsort(price, kind="stable")
    by_price = by_price[np.isfinite(price[by_price])]
    spent = np.cumsum(cost[by_price])
    broken = np.zeros(tree.num_nodes, np.bool_)
    broken[by_price[spent <= budget]] = True
    broken[:1] = True
    return broken


def cut_by_side(workload: Workload, budget: float) -> Units:
    """Units for the dual scan: nodes broken, then outliers detached, where both sides are mixed.

    Args:
        budget: tokens that may be expected to be computed again.
    """
    tree = workload.tree
    dense = workload.leaf_density > workload.root_density
    work = workload.leaf_work_s
    work_dense = tree.subtree_sum(np.where(dense, work, 0.0))
    misplaced = np.minimum(work_dense, tree.subtree_sum(np.where(dense, 0.0, work)))
    # Differences of prefix sums leave a remainder where one side is empty.
    misplaced[misplaced < 1e-9 * (tree.subtree_sum(work) + work.sum())] = 0.0
    broken = choose_breaks(tree, misplaced, budget * _SHARE_FOR_NODES)
    top = _unit_key(tree, broken)
    together = top < tree.num_nodes
    unit_dense = np.zeros(tree.num_nodes + tree.n, np.bool_)
    unit_dense[: tree.num_nodes] = workload.node_load.density > workload.root_density
    outlier = np.flatnonzero(together & (unit_dense[top] != dense) & (work > 0))
    cost = expected_depth(tree)[tree.leaf_parent[outlier]]
    outlier = outlier[np.argsort(cost / work[outlier], kind="stable")]
    spent = np.cumsum(expected_depth(tree)[tree.leaf_parent[outlier]])
    detached = outlier[spent <= budget * (1.0 - _SHARE_FOR_NODES)]
    top[detached] = tree.num_nodes + detached
    return units_of(workload, top)


def cut_by_work(workload: Workload, unit_work_ratio: float, budget: float) -> Units:
    """Units for the stationary order: maximal subtrees with at most this share of the job's work.

    A subtree with more work stays whole when the budget does not allow to break it.

    Args:
        unit_work_ratio: 0 to 1, of the compute plus memory time of the job.
        budget: tokens that may be expected to be computed again.
    """
    load = workload.node_load
    work = load.compute_s + load.memory_s
    gain = np.where(work > unit_work_ratio * work[:1], work, 0.0)
    return units_of(workload, _unit_key(workload.tree, choose_breaks(workload.tree, gain, budget)))


def _unit_key(tree: PrefixTree, broken: NDArray[np.bool_]) -> IntArray:
    """(n,) int64, the topmost unbroken node over each leaf, or `m + leaf` for a leaf on a broken node."""
    top = tree.nearest_marked(broken[tree.node_parent] & ~broken)[tree.leaf_parent]
    alone = broken[tree.leaf_parent]
    top[alone] = tree.num_nodes + np.flatnonzero(alone)
    return top


def units_of(workload: Workload, key: IntArray) -> Units:
    """Number units by key and add up their loads.

    Args:
        key: (n,) int64, equal for leaves of one unit.
    """
    tree = workload.tree
    distinct, of_leaf = np.unique(key, return_inverse=True)
    num_units = len(distinct)
    leaf = np.argsort(of_leaf, kind="stable")
    before, after = leaf[:-1], leaf[1:]
    same = of_leaf[before] == of_leaf[after]
    shared = np.zeros(tree.n, np.int64)
    shared[after[same]] = lowest_between(tree.lcp, before[same], after[same])
    saved = np.bincount(of_leaf, workload.prefix_compute_s(shared), num_units)
    full = np.bincount(of_leaf, workload.leaf_full_compute_s, num_units)
    memory = np.bincount(of_leaf, workload.leaf_memory_s, num_units)
    return Units(of_leaf, Load(np.maximum(full - saved, 0.0), saved, memory))
