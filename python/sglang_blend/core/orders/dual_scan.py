"""The paper's order: a density-sorted tree scanned from both ends against modelled memory.

Steps: cut the tree into units within the sharing budget (`split.py`), sort the units by falling density and
each unit layer by layer, merge neighbours into blocks, and let the `DualScanner` take blocks from both
ends. Its clock counts decode steps: a block holds the peak of its requests and leaves after their mean
output length; a side takes its next block as soon as its part of the memory has room. The order of these
admissions is the plan.

Decided here, where the paper is silent (the division of memory is decided in `dual_scanner.py`):

- Merging (A.2): neighbours in the sorted list form a block of at most 1/64 of the KV pool, so that blocks
stay
  far below a side's share. Up to 20,000 requests are not merged at all: each is its own block.
- Units to the right of the job's density are shuffled within density classes (`right_class_ratio`): sorted
  strictly, neighbours have equal lengths, come and go together, and memory use turns into a saw-tooth.
- The right scanner walks its units backwards, which keeps their sharing just as well.
- rho(L) and rho(R) are those of the unit a pointer is in, as in the paper. So that this describes any stretch
  of it, the requests of a node are shuffled too, unless `right_class_ratio` asks for the strict order.
- An output length of 0 is scanned as 1, so that no density is infinite and both sides keep a finite pace.
- Each side's current path is kept: sharing is measured with two paths (see `sharing.py`).
- Without any compute or without any memory time there is no density to balance: everything stays on the left,
  in density order.

Source: BlendServe, arXiv:2411.16102, sections 5.2, 5.3 and A.2, Algorithms 1 to 3.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost import FloatArray, IntArray
from sglang_blend.core.density import log_density
from sglang_blend.core.dual_scanner import DualScanner, ScanItems
from sglang_blend.core.orders.placement import Placement
from sglang_blend.core.orders.within_loss import within_loss
from sglang_blend.core.request import Side
from sglang_blend.core.split import Units, cut_by_density, layer_wise_order
from sglang_blend.core.workload import Workload

# Densities of a unit within this factor are not told apart.
_CLASS_RATIO = 2.0
_UNMERGED_REQUESTS = 20_000
_BLOCKS_PER_POOL = 64
# Keeps the scan short when the pool is tiny against the job.
_MOST_BLOCKS = 200_000


def dual_scan(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Plan by the dual scan; keeps at least `1 - sharing_loss` of the possible sharing."""
    shuffle_key = rng.random(workload.tree.n)
    strict = config.right_class_ratio == 1.0
    layered = layer_wise_order(workload, None if strict else shuffle_key)

    def place(budget: float) -> Placement:
        units = cut_by_density(workload, _CLASS_RATIO, budget)
        in_order = _sort_units(workload, config, units, layered, shuffle_key)
        return _scan(workload, config, units, in_order)

    return within_loss(workload, config, place)


def _sort_units(
    workload: Workload, config: PlanConfig, units: Units, layered: IntArray, shuffle_key: FloatArray
) -> IntArray:
    """(n,) int64, leaves by falling density of their unit, and layer by layer inside it."""
    num_units = units.num_units
    first_leaf = np.full(num_units, workload.tree.n, np.int64)
    np.minimum.at(first_leaf, units.of_leaf, np.arange(workload.tree.n))
    density = log_density(units.load.density)
    tie = first_leaf.astype(np.float64)
    root = log_density(np.asarray(workload.root_density))
    if config.right_class_ratio > 1.0 and np.isfinite(root):
        right = (density < root) & np.isfinite(density)
        width = np.log(config.right_class_ratio)
        density = np.where(right, root - np.ceil((root - density) / width) * width, density)
        tie = np.where(right, shuffle_key[first_leaf], tie)
    rank = np.empty(num_units, np.int64)
    rank[np.lexsort((first_leaf, tie, -density))] = np.arange(num_units)
    return layered[np.argsort(rank[units.of_leaf[layered]], kind="stable")]


def _scan(workload: Workload, config: PlanConfig, units: Units, in_order: IntArray) -> Placement:
    """Let the dual scanner take blocks of the sorted list from both ends."""
    n = len(in_order)
    side, mem_share = np.full(n, Side.LEFT, np.int8), np.ones(n)
    if not 0.0 < workload.root_density < np.inf:
        return Placement(in_order, units.of_leaf, side, mem_share, "there is nothing to balance")
    output = workload.leaf_output_len[in_order].astype(np.float64)
    peak = workload.tree.prompt_len[in_order] + output
    first = _block_starts(peak, workload.kv_pool_tokens)
    memory = workload.memory_s_of_leaves(least_output_len=1)
    unit_density = units.load.compute_s / np.bincount(units.of_leaf, memory, units.num_units)
    items = ScanItems(
        compute_s=np.add.reduceat((unit_density[units.of_leaf] * memory)[in_order], first),
        memory_s=np.add.reduceat(memory[in_order], first),
        peak_tokens=np.add.reduceat(peak, first),
        request_tokens=np.maximum.reduceat(peak, first),
        token_steps=np.add.reduceat((peak - output / 2) * np.maximum(output, 1.0), first),
    )
    life = np.add.reduceat(peak * np.maximum(output, 1.0), first) / items.peak_tokens
    scanner = DualScanner(
        items, mem_tokens=workload.kv_pool_tokens, min_left_requests=config.min_left_requests
    )
    taken, of_side, share = _admissions(scanner, life, workload.kv_pool_tokens)
    position, num_taken = _expand(first, n, taken, of_side)
    leaves = in_order[position]
    side[leaves] = np.repeat(of_side, num_taken)
    mem_share[leaves] = np.repeat(share, num_taken)
    return Placement(leaves, units.of_leaf, side, mem_share)


def _block_starts(peak: FloatArray, kv_pool_tokens: int) -> IntArray:
    """First list position of each block; see the module on merging."""
    if len(peak) <= _UNMERGED_REQUESTS:
        return np.arange(len(peak))
    upto = np.cumsum(peak)
    grain = max(kv_pool_tokens / _BLOCKS_PER_POOL, upto[-1] / _MOST_BLOCKS)
    block = np.floor((upto - peak) / grain)
    return np.flatnonzero(np.diff(block, prepend=-1.0))


def _admissions(
    scanner: DualScanner, life: FloatArray, kv_pool_tokens: int
) -> tuple[IntArray, NDArray[np.int8], FloatArray]:
    """Run the scanner against a clock of decode steps.

    Args:
        life: (b,) float64, steps that each block stays.

    Returns:
        Blocks in the order they are taken, the side that took each, and that side's share of the memory.
    """
    stay: list[float] = life.tolist()
    taken: list[int] = []
    of_side: list[Side] = []
    share: list[float] = []
    running: list[tuple[float, int]] = []
    now = 0.0
    while scanner.num_waiting:
        side = scanner.next_side()
        if side == Side.NONE:
            before = now
            now, finished = heapq.heappop(running)
            scanner.advance(now - before)
            scanner.release(finished)
            continue
        split = scanner.split()
        share.append((split.mem_left if side == Side.LEFT else split.mem_right) / kv_pool_tokens)
        of_side.append(side)
        taken.append(scanner.admit(side))
        heapq.heappush(running, (now + stay[taken[-1]], taken[-1]))
    return np.array(taken, np.int64), np.array(of_side, np.int8), np.array(share)


def _expand(first: IntArray, n: int, taken: IntArray, of_side: NDArray[np.int8]) -> tuple[IntArray, IntArray]:
    """List positions block by block, those of right blocks backwards, and the size of each taken block."""
    size = np.diff(first, append=n)[taken]
    step = np.where(of_side == Side.RIGHT, -1, 1)
    start = first[taken] + np.where(step < 0, size - 1, 0)
    inside = np.arange(n) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(start, size) + np.repeat(step, size) * inside, size
