"""Cuts a job into parts for replicas: equal in time, each a sample of the whole, with little sharing lost.

    parts = cut(workload, config, shares=[1.0, 1.0, 2.0])       # the third replica is twice as fast
    parts.of_row                                                # which replica each request is for

The tree is divided into units (subtrees of at most 1% of a part's work; what has to be broken for that spends
the sharing budget of the plan), the units are shuffled, each depth-first, and this list is bent into a
circle. Every part is an arc of it: at each of its two ends it cuts one unit, and computes at most the
root-to-leaf path there that another part computes too.

Why an arc with the right load always exists: the arcs with `1/N` of the work, one for each starting point,
have on average the density of the whole, and their density changes continuously along the circle (but for
the size of one leaf), so some arc has exactly that density. Equal work and equal density are equal compute
and equal memory time, which is equal time on any engine. The list is halved so, and each half again:
`log2(N)` passes.

Source: BlendServe, arXiv:2411.16102, section 5.5, which cuts the density-sorted tree from both ends instead.
Those parts have equal loads too, but one has the extremes and another the middle; long outputs gather in some
of them, and these take longer. In simulation (docs/cluster.md) four replicas were 3.1 times as fast as one
with such parts, where parts that are samples make it 3.6 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.sharing import lowest_between
from sglang_blend.core.split import cut_by_work
from sglang_blend.core.workload import Workload
from sglang_blend.errors import PlanError

# A part may miss its compute and its memory time by this much of its work, if that loses less sharing.
_TOLERANCE = 0.005
# Starting points that are tried for one arc; a longer list is tried at its shallowest places.
_MOST_STARTS = 1 << 16


class Partition(NamedTuple):
    """The parts of a job, one a replica.

    Attributes:
        of_row: (n,) int64, the part of each request.
        compute_s, memory_s: (N,) float64, predicted seconds of each part with full sharing inside the whole
            job; tokens to compute and tokens to generate where there is no cost model.
        lost_tokens: prompt tokens that the parts compute together beyond those of the uncut tree.
        unique_tokens: prompt tokens of the uncut tree.
    """

    of_row: IntArray
    compute_s: FloatArray
    memory_s: FloatArray
    lost_tokens: int
    unique_tokens: int

    @property
    def num_parts(self) -> int:
        """How many there are; some may be empty."""
        return len(self.compute_s)

    @property
    def work_ratio(self) -> FloatArray:
        """(N,) float64, share (0 to 1) of the job's compute and memory time in each part."""
        work = self.compute_s + self.memory_s
        total = float(work.sum())
        return work / total if total else work

    @property
    def lost_ratio(self) -> float:
        """Share of the tokens that must be computed in any case which the cut makes to be computed again."""
        return self.lost_tokens / self.unique_tokens if self.unique_tokens else 0.0


def cut(workload: Workload, config: PlanConfig, shares: Sequence[float]) -> Partition:
    """Cut a job.

    Args:
        workload: the job; its cost model says what compute and memory time are.
        config: of the plan; the size of units, `sharing_loss` and `seed` count here.
        shares: (N,) of the work, in any unit, above 0: the speed of each replica.

    Returns:
        Parts that together lose no more sharing than the plan may, and one path from the root for each of
        their `2 (N - 1)` ends.

    Raises:
        PlanError: no shares, or one that is not above 0.
    """
    weight = np.asarray(shares, np.float64)
    config = replace(config, num_replicas=max(len(weight), 1))
    if not len(weight) or not (np.isfinite(weight) & (weight > 0)).all():
        raise PlanError(f"the shares are {list(shares)}; one number above 0 for each replica is needed")
    tree = workload.tree
    budget = config.sharing_loss * min(tree.num_shared_tokens, tree.num_unique_tokens)
    at_ends = 2 * (len(weight) - 1) * int(tree.node_depth.max(initial=0))
    for spent in (budget, budget / 4, budget / 16):
        parts = _cut_within(workload, config, weight, spent)
        if parts.lost_tokens <= budget + at_ends:
            return parts
    return _cut_within(workload, config, weight, 0.0)


def _cut_within(workload: Workload, config: PlanConfig, weight: FloatArray, budget: float) -> Partition:
    """Cut with so many tokens that breaking subtrees is expected to cost."""
    tree = workload.tree
    part = np.zeros(tree.n, np.int64)
    compute, memory = _loads(workload)
    if tree.n and len(weight) > 1:
        leaves = _shuffled_units(workload, config, budget)
        shared = np.zeros(tree.n, np.int64)
        shared[1:] = lowest_between(tree.lcp, leaves[:-1], leaves[1:])
        parts = part[leaves]
        _bisect(_Stretch(np.arange(tree.n), shared, compute[leaves], memory[leaves]), weight, parts)
        part[leaves] = parts
    return Partition(
        of_row=part[tree.leaf_of_row],
        compute_s=np.bincount(part, compute, len(weight)).astype(np.float64),
        memory_s=np.bincount(part, memory, len(weight)).astype(np.float64),
        lost_tokens=_unique_tokens(tree, part) - tree.num_unique_tokens,
        unique_tokens=tree.num_unique_tokens,
    )


def _shuffled_units(workload: Workload, config: PlanConfig, budget: float) -> IntArray:
    """(n,) int64, leaves, unit after unit."""
    tree = workload.tree
    if workload.cost is None:
        return np.arange(tree.n)
    units = cut_by_work(workload, config.unit_work_of_part_ratio, budget)
    key = np.random.default_rng(config.seed).random(units.num_units)
    return np.argsort(key[units.of_leaf], kind="stable")


class _Stretch(NamedTuple):
    """Some leaves of the list, in its order.

    Attributes:
        place: (k,) int64, where they stand in the list.
        shared: (k,) int64, tokens that each shares with the one before it here; 0 for the first.
        compute, memory: (k,) float64.
    """

    place: IntArray
    shared: IntArray
    compute: FloatArray
    memory: FloatArray

    def without(self, start: int, end: int) -> _Stretch:
        """Less `[start, end)`; what comes after it now follows what came before it, with which it shares at
        least what all between them share.
        """
        keep = np.r_[0:start, end : len(self.place)]
        rest = _Stretch(self.place[keep], self.shared[keep], self.compute[keep], self.memory[keep])
        if start < len(rest.place):
            rest.shared[start] = self.shared[start : end + 1].min() if start else 0
        return rest

    def only(self, start: int, end: int) -> _Stretch:
        """`[start, end)` alone."""
        piece = _Stretch(
            self.place[start:end],
            self.shared[start:end].copy(),
            self.compute[start:end],
            self.memory[start:end],
        )
        piece.shared[:1] = 0
        return piece


def _bisect(stretch: _Stretch, weight: FloatArray, parts: IntArray) -> None:
    """Write the part of each leaf of the stretch; parts are numbered as in `weight`, from the left."""
    waiting = [(stretch, 0, len(weight))]
    while waiting:
        here, first, end = waiting.pop()
        if end - first == 1 or not len(here.place):
            parts[here.place] = first
            continue
        middle = (first + end) // 2
        share = float(weight[first:middle].sum() / weight[first:end].sum())
        levels_left = int(np.ceil(np.log2(end - first)))
        start, length = _arc(here, share, _TOLERANCE / levels_left)
        size = len(here.place)
        if start + length <= size:
            arc, rest = here.only(start, start + length), here.without(start, start + length)
        else:  # it goes over the end of the list and on from its beginning
            over = start + length - size
            arc, rest = here.without(over, start), here.only(over, start)
        waiting += [(arc, first, middle), (rest, middle, end)]


def _arc(stretch: _Stretch, share: float, tolerance: float) -> tuple[int, int]:
    """Start and number of leaves of an arc that has this share of both loads.

    Of those within the tolerance the one that loses least sharing at its two ends, else the nearest.
    """
    size = len(stretch.place)
    starts = _shallow_places(stretch.shared)
    found = _nearest_arc(stretch, share, tolerance, starts)
    if not found.is_near and len(starts) < size:
        found = _nearest_arc(stretch, share, tolerance, np.arange(size))
    return found.start, found.length


class _Arc(NamedTuple):
    """Its first leaf, its number of leaves, and whether it has the wanted loads."""

    start: int
    length: int
    is_near: bool


def _nearest_arc(stretch: _Stretch, share: float, tolerance: float, start: IntArray) -> _Arc:
    size = len(stretch.place)
    compute, memory = (_around(load) for load in (stretch.compute, stretch.memory))
    work = compute + memory
    wanted = share * work[size]
    # The end nearest to the wanted work; `work` may be flat where leaves cost nothing.
    upto = work[start] + wanted
    end = np.searchsorted(work, upto, side="left")
    end = np.clip(end, start, start + size)
    before = np.maximum(end - 1, start)
    end = np.where(np.abs(work[before] - upto) < np.abs(work[end] - upto), before, end)
    miss = np.maximum(
        np.abs(compute[end] - compute[start] - share * compute[size]),
        np.abs(memory[end] - memory[start] - share * memory[size]),
    )
    lost = stretch.shared[start] + stretch.shared[end % size]
    allowed = miss <= tolerance * max(min(wanted, work[size] - wanted), 0.0)
    best = np.lexsort((miss, np.where(allowed, lost, 0), ~allowed))[0]
    return _Arc(int(start[best]), int(end[best] - start[best]), bool(allowed[best]))


def _shallow_places(shared: IntArray) -> IntArray:
    """Places to begin an arc: all, or of a long list those where least is shared."""
    size = len(shared)
    if size <= _MOST_STARTS:
        return np.arange(size)
    # The shallowest place of each of so many pieces, which keeps them spread over the whole list.
    edges = np.linspace(0, size, _MOST_STARTS + 1).astype(np.int64)
    lowest = np.minimum.reduceat(shared, edges[:-1])
    piece = np.repeat(np.arange(_MOST_STARTS), np.diff(edges))
    at = np.flatnonzero(shared == lowest[piece])
    return at[np.flatnonzero(np.diff(piece[at], prepend=-1))]


def _around(load: FloatArray) -> FloatArray:
    """(2 k + 1,) float64, sums before each place on two rounds of the circle."""
    upto = np.zeros(2 * len(load) + 1)
    np.cumsum(np.concatenate([load, load]), out=upto[1:])
    return upto


def _loads(workload: Workload) -> tuple[FloatArray, FloatArray]:
    """(n,) compute and memory time of each leaf; tokens of either kind without a cost model."""
    if workload.cost is not None:
        return workload.leaf_compute_s, workload.leaf_memory_s
    own = workload.tree.prompt_len - workload.tree.lcp
    return own.astype(np.float64), workload.leaf_output_len.astype(np.float64)


def _unique_tokens(tree: PrefixTree, part: IntArray) -> int:
    """Tokens to compute when every part shares inside itself alone.

    Args:
        part: (n,) int64, of each leaf.
    """
    by_part = np.argsort(part, kind="stable")
    before, after = by_part[:-1], by_part[1:]
    same = part[before] == part[after]
    return tree.num_prompt_tokens - int(lowest_between(tree.lcp, before[same], after[same]).sum())
