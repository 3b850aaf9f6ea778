"""Cuts the prefix tree into units that may run apart, and sorts it by density layer by layer.

The paper sorts every child list by density (Algorithm 1), then splits nodes whose sharing is worth little
(Algorithm 2 and section 5.2), and re-sorts. Its Algorithm 2 is one top-down pass that breaks whole nodes
under a threshold; its text detaches single outliers until 99% of the sharing is reached. Both cannot be
literal. Decided here:

- A budget of tokens is spent, at most `sharing_loss` of the tokens that sharing can save.
- Breaking a node lets its children run apart. It is expected to cost `(children - 1)` times the depth of
  the node, where a segment counts only as far as requests outside its subtree can come between (`1 - leaves
  / n`): a chat template under which the whole job hangs costs nothing to break.
- Nodes are broken in order of cost over gain, parents first, until the budget is spent. The order asks for
  the gain: the dual scan gains the work that is on the wrong side of the job's density inside the node.
- Then leaves whose density is far from their unit's are detached with what is left, again by cost over
  gain: not one by one, but all leaves of a node that have about the same density as one new unit, which
  pays the node's prefix once.
- The stationary order cuts a subtree that is too large and too dear to break into a few pieces instead.
- Costs are expectations, so the order measures what it really keeps and asks again with half the budget if
  that is too little. With no budget only what is free is broken.

Source: BlendServe, arXiv:2411.16102, sections 5.1, 5.2 and A.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.density import Load, log_density
from sglang_blend.core.prefix_tree import PrefixTree, prefix_sum
from sglang_blend.core.sharing import lowest_between
from sglang_blend.core.workload import Workload

# Part of the budget that breaking whole nodes may spend; the rest detaches groups of leaves.
_SHARE_FOR_NODES = 0.5
_FARTHEST_CLASS = 31


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


def layer_wise_order(workload: Workload, shuffle_key: FloatArray | None = None) -> IntArray:
    """Leaves with every child list sorted by falling density: compute-intensive first, memory-intensive last.

    Nodes count with the sharing inside them, leaves with their part of what they share; ties keep tree order.

    Args:
        shuffle_key: (n,) float64; given, the leaves of a node stand together in order of this key instead, at
            the density of the node, so that any stretch of them is a sample of the node.

    Returns:
        (n,) int64, leaves.

    Source: BlendServe, Algorithm 1. No recursion: each item's place is the sum of its offsets among its
    siblings, from the root down.
    """
    tree = workload.tree
    child = np.arange(1, tree.num_nodes)
    node_density = workload.node_load.density
    if shuffle_key is None:
        leaf_density, leaf_tie = workload.leaf_density, np.arange(tree.n, dtype=np.float64)
    else:
        leaf_density, leaf_tie = node_density[tree.leaf_parent], shuffle_key
    density = np.concatenate([node_density[1:], leaf_density])
    tie = np.concatenate([tree.node_start[1:], leaf_tie])
    parent = np.concatenate([tree.node_parent[1:], tree.leaf_parent])
    size = np.concatenate([tree.node_num_leaves[1:], np.ones(tree.n, np.int64)])
    by_density = np.lexsort((tie, -density, parent))
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
        gain: (m,) float64, 0 or more, in any unit, nowhere below a descendant's; without gain nothing is
            broken.
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


def cut_by_density(workload: Workload, class_ratio: float, budget: float) -> Units:
    """Units for the dual scan: nodes broken, then groups of leaves detached, where densities are mixed.

    Args:
        class_ratio: densities within this factor need not be told apart; above 1.
        budget: tokens that may be expected to be computed again.
    """
    tree = workload.tree
    dense = workload.leaf_density > workload.root_density
    work = workload.leaf_work_s
    work_dense = tree.subtree_sum(np.where(dense, work, 0.0))
    misplaced = np.minimum(work_dense, tree.subtree_sum(np.where(dense, 0.0, work)))
    # Differences of prefix sums leave a remainder where one side is empty.
    misplaced[misplaced < 1e-9 * work.sum()] = 0.0
    broken = choose_breaks(tree, misplaced, budget * _SHARE_FOR_NODES)
    key = _unit_key(tree, broken)
    leaf = np.flatnonzero(key < tree.num_nodes)
    with np.errstate(invalid="ignore"):
        apart = log_density(workload.leaf_density[leaf]) - log_density(workload.node_load.density[key[leaf]])
    # Infinite densities (no output) are one class, far from any finite one and not apart from each other.
    distance = np.rint(np.nan_to_num(apart, posinf=np.inf, neginf=-np.inf) / np.log(class_ratio))
    distance = np.clip(distance, -_FARTHEST_CLASS, _FARTHEST_CLASS).astype(np.int64)
    parent = tree.leaf_parent[leaf]
    group_key = parent * (2 * _FARTHEST_CLASS + 1) + distance + _FARTHEST_CLASS
    group_key[distance == 0] = -1
    distinct, group = np.unique(group_key, return_inverse=True)
    gain = np.bincount(group, work[leaf] * np.abs(distance), len(distinct))
    cost = expected_depth(tree)[distinct // (2 * _FARTHEST_CLASS + 1)]
    with np.errstate(divide="ignore", invalid="ignore"):
        price = np.where((distinct >= 0) & (gain > 0), cost / gain, np.inf)
    by_price = np.argsort(price, kind="stable")
    by_price = by_price[np.isfinite(price[by_price])]
    detached = np.zeros(len(distinct), np.bool_)
    detached[by_price[np.cumsum(cost[by_price]) <= budget * (1.0 - _SHARE_FOR_NODES)]] = True
    moved = detached[group]
    key[leaf[moved]] = tree.num_nodes + tree.n + group[moved]
    return units_of(workload, key)


def cut_by_work(workload: Workload, unit_work_ratio: float, budget: float) -> Units:
    """Units for the stationary order: maximal subtrees with at most this share of the job's work.

    A larger subtree that the budget does not allow to break is cut into as many pieces, at the boundaries
    of its top node's children, as what is left of the budget pays for. With `k` pieces of work `W / k`
    each, and a cost of `c` a cut, the sum of squared pieces is least where `k` is proportional to `W /
    sqrt(c)`.

    Args:
        unit_work_ratio: 0 to 1, of the compute plus memory time of the job.
        budget: tokens that may be expected to be computed again.
    """
    tree = workload.tree
    load = workload.node_load
    work = load.compute_s + load.memory_s
    large = work > unit_work_ratio * work[:1]
    broken = choose_breaks(tree, np.where(large, work, 0.0), budget * _SHARE_FOR_NODES)
    key = _unit_key(tree, broken)
    cost = expected_depth(tree)
    pieces = np.zeros(tree.num_nodes)
    tops = np.unique(key[key < tree.num_nodes])
    tops = tops[large[tops] & (cost[tops] > 0)]
    if len(tops):
        weight = work[tops] / np.sqrt(cost[tops])
        num_cuts = weight * budget * (1.0 - _SHARE_FOR_NODES) / (weight @ cost[tops])
        pieces[tops] = np.floor(num_cuts) + 1
    leaf = np.flatnonzero(np.append(pieces, np.zeros(tree.n))[key] > 1)
    top = key[leaf]
    # Every leaf goes with the first leaf of its top node's child, cut by the work before that one.
    child_first = np.maximum.accumulate(np.where(tree.gap_node[leaf] == top, leaf, tree.node_start[top]))
    work_upto = prefix_sum(workload.leaf_work_s)
    before = work_upto[child_first] - work_upto[tree.node_start[top]]
    piece = np.floor(before * pieces[top] / work[top]).astype(np.int64)
    first_of_piece = np.empty(len(leaf), np.bool_)
    first_of_piece[:1] = True
    first_of_piece[1:] = (piece[1:] != piece[:-1]) | (top[1:] != top[:-1])
    key[leaf] = tree.num_nodes + tree.n + np.cumsum(first_of_piece)
    return units_of(workload, key)


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
