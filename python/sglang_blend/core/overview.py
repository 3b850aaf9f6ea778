"""What a job looks like, in a few hundred numbers: where its sharing is, and how its densities are spread.

shared = largest_prefixes(workload, limit=200)      # most tokens saved first
shared.node, shared.saved_tokens, shared.density
histogram = density_histogram(workload)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.workload import Workload

_LEAST_LOG2, _MOST_LOG2 = -12, 12


class SharedPrefixes(NamedTuple):
    """Nodes of the prefix tree, those first that save most. All arrays are (k,).

    Attributes:
        node: int64, number in the tree.
        start, end: int64, the requests under it are the leaves `[start, end)`.
        parent_len, prefix_len: int64, tokens from the root to where the node begins and ends.
        saved_tokens: int64, prompt tokens that need not be computed because of this node alone.
        density: float64, compute density of its requests together; NaN without a cost model.
    """

    node: IntArray
    start: IntArray
    end: IntArray
    parent_len: IntArray
    prefix_len: IntArray
    saved_tokens: IntArray
    density: FloatArray


class DensityHistogram(NamedTuple):
    """Requests by density, a factor of two a class; the outermost classes are open. All arrays are (c,).

    Attributes:
        lowest: float64, where each class begins.
        num_requests: int64.
        compute_s, memory_s: float64, of these requests, shared prefixes counted once.
    """

    lowest: FloatArray
    num_requests: IntArray
    compute_s: FloatArray
    memory_s: FloatArray


def saved_tokens(tree: PrefixTree) -> IntArray:
    """(m,) int64, prompt tokens each node saves: its own tokens times all its requests but one.

    They add up to `tree.num_shared_tokens`.
    """
    own_len = tree.node_depth - tree.node_depth[tree.node_parent]
    saved: IntArray = own_len * (tree.node_num_leaves - 1)
    return saved


def largest_prefixes(workload: Workload, *, limit: int) -> SharedPrefixes:
    """The `limit` nodes that save most tokens, fewer where there are fewer that save any."""
    tree = workload.tree
    saved = saved_tokens(tree)
    node = np.argsort(-saved, kind="stable")[:limit]
    node = node[saved[node] > 0]
    if workload.cost is None:
        density = np.full(len(node), np.nan)
    else:
        density = np.asarray(workload.node_load.density)[node]
    return SharedPrefixes(
        node=node,
        start=tree.node_start[node],
        end=tree.node_end[node],
        parent_len=tree.node_depth[tree.node_parent[node]],
        prefix_len=tree.node_depth[node],
        saved_tokens=saved[node],
        density=density,
    )


def density_histogram(workload: Workload) -> DensityHistogram:
    """Densities of a job that has a cost model; empty classes at both ends are left out."""
    with np.errstate(divide="ignore"):
        exponent = np.log2(workload.leaf_density)
    bounded = np.nan_to_num(exponent, nan=0.0, posinf=1e3, neginf=-1e3)
    log2 = np.clip(np.floor(bounded), _LEAST_LOG2, _MOST_LOG2).astype(np.int64)
    first = int(log2.min(initial=_MOST_LOG2))
    size = int(log2.max(initial=first)) - first + 1
    return DensityHistogram(
        lowest=np.exp2(np.arange(first, first + size, dtype=np.float64)),
        num_requests=np.bincount(log2 - first, minlength=size).astype(np.int64),
        compute_s=np.bincount(log2 - first, workload.leaf_compute_s, minlength=size).astype(np.float64),
        memory_s=np.bincount(log2 - first, workload.leaf_memory_s, minlength=size).astype(np.float64),
    )
