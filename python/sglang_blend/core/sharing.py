"""How much of the possible prefix sharing an order keeps, in a cache of any size or in the KV pool in hand.

The measure is a cache with no memory beyond the current path: a segment of the prefix tree is computed each
time the order enters the subtree of its node, and forgotten when the order leaves it. So request `k`
computes its prompt but for the tokens it shares with the request before it. A dual-scan order has two
current paths, the one of the last left and the one of the last right request, and a request uses the better
of the two.

Two paths need room for two beside what runs on them, so they have half of the pool. Since a side's last
request, the other side has taken new tokens (prompts less what they reuse, and outputs) and goes on reading
its own path; what that leaves of the half is what can be left of the first path, its root end longest, as a
radix cache evicts leaves first. Without a `Pool` both paths are always there.

    kept = 1 - (computed tokens - unique tokens) / (shared tokens)      1.0 where nothing can be shared
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.prefix_tree import PrefixTree, prefix_sum
from sglang_blend.core.request import Side

# Waiting a step for fewer tokens of another request than this costs more than computing them twice.
LEAST_SHARED_LEN = 8
# Part of the KV pool that two paths share; what runs on them holds the rest.
_PATHS_RATIO = 0.5


class Pool(NamedTuple):
    """The memory that an order has.

    Attributes:
        tokens: of the KV pool.
        output_len: (n,) int64, expected output tokens of each row.
    """

    tokens: int
    output_len: IntArray


class Reused(NamedTuple):
    """Tokens that each position of an order finds in the current paths; (n,) int64 each.

    Attributes:
        anywhere: in a cache of any size.
        in_pool: where the paths have to fit into the pool.
    """

    anywhere: IntArray
    in_pool: IntArray


def sharing_kept(
    tree: PrefixTree, sequence: IntArray, side: NDArray[np.int8] | None = None, pool: Pool | None = None
) -> float:
    """Part (0 to 1) of the possible sharing that an order keeps; see the module for the definition.

    Args:
        tree: of the requests.
        sequence: (n,) int64, rows in the order they run.
        side: (n,) int8, `Side` of each row; None or all NONE means one current path.
        pool: where the paths have to fit; None for a cache of any size.

    Returns:
        1.0 when every shared token is computed once, 0.0 when none is reused.
    """
    possible = tree.num_shared_tokens
    return float(reused_len(tree, sequence, side, pool).in_pool.sum()) / possible if possible else 1.0


def reused_len(
    tree: PrefixTree, sequence: IntArray, side: NDArray[np.int8] | None = None, pool: Pool | None = None
) -> Reused:
    """What an order finds in its current paths; arguments as for `sharing_kept`."""
    if tree.n == 0:
        return Reused(np.zeros(0, np.int64), np.zeros(0, np.int64))
    leaf = tree.leaf_of_row[sequence]
    if side is None or not (side != Side.NONE).any():
        shared = _shared_with(tree, leaf, np.arange(tree.n) - 1)
        return Reused(shared, shared)
    is_left = side[sequence] == Side.LEFT
    before = [_last_before(is_left), _last_before(~is_left)]
    of_side = [_shared_with(tree, leaf, each) for each in before]
    anywhere: IntArray = np.maximum(*of_side)
    if pool is None:
        return Reused(anywhere, anywhere)
    taken = prefix_sum(tree.prompt_len[leaf] - anywhere + pool.output_len[sequence])
    fitting = [
        np.minimum(shared, _room(pool.tokens, taken, anywhere, at))
        for shared, at in zip(of_side, before, strict=True)
    ]
    return Reused(anywhere, np.maximum(*fitting))


def _room(pool_tokens: int, taken: FloatArray, reused: IntArray, before: IntArray) -> IntArray:
    """(n,) int64, what the requests after position `before` of the order leave of the pool for its path.

    Nothing is evicted while all that was ever taken fits.

    Args:
        taken: (n + 1,) float64, new tokens of all positions before each.
        reused: (n,) int64, tokens that each position finds in its own path.
        before: (n,) int64, positions; -1 where there is none.
    """
    first = np.minimum(before + 1, len(before) - 1)
    others = taken[:-1] - taken[before + 1] + reused[first]
    is_shared = (np.arange(len(before)) - before > 1) & (taken[1:] > pool_tokens)
    room = np.where(is_shared, np.maximum(_PATHS_RATIO * pool_tokens - others, 0), pool_tokens)
    return room.astype(np.int64)


def _last_before(wanted: NDArray[np.bool_]) -> IntArray:
    """(n,) int64, the last wanted position before each one; -1 where there is none yet."""
    upto = np.maximum.accumulate(np.where(wanted, np.arange(len(wanted)), -1))
    return np.append(-1, upto[:-1])


def _shared_with(tree: PrefixTree, leaf: IntArray, before: IntArray) -> IntArray:
    """(n,) int64, tokens each position shares with position `before` of the order; 0 where that is -1."""
    shared = np.zeros(len(leaf), np.int64)
    there = np.flatnonzero(before >= 0)
    shared[there] = lowest_between(tree.lcp, leaf[there], leaf[before[there]])
    return shared


def lowest_between(lcp: IntArray, a: IntArray, b: IntArray) -> IntArray:
    """Tokens that leaves `a[i]` and `b[i]` share: the lowest lcp in (min, max], by doubling windows.

    Args:
        lcp: (n,) int64, of neighbouring leaves.
        a, b: (q,) int64, leaves; `a[i] != b[i]`.

    Returns:
        (q,) int64, tokens.
    """
    low, high = np.minimum(a, b) + 1, np.maximum(a, b) + 1
    span_log2 = np.frexp((high - low).astype(np.float64))[1] - 1
    lowest = np.empty(len(low), np.int64)
    by_span = np.argsort(span_log2, kind="stable")
    limits = np.searchsorted(span_log2[by_span], np.arange(65))
    window = lcp  # window[i] is the lowest of lcp[i : i + 2**level]
    for level in range(int(span_log2.max(initial=-1)) + 1):
        asked = by_span[limits[level] : limits[level + 1]]
        lowest[asked] = np.minimum(window[low[asked]], window[high[asked] - (1 << level)])
        window = np.minimum(window[: -(1 << level)], window[1 << level :])
    return lowest
