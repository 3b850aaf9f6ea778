"""The paper's order: a density-sorted tree scanned from both ends against modelled memory.

Steps: cut the tree into units within the sharing budget (`split.py`), sort the units by falling density and
each unit layer by layer, merge neighbours into blocks, and let the `DualScanner` take blocks from both
ends. Its clock counts decode steps: a block holds the peak of its requests and leaves after their mean
output length; a side takes its next block as soon as its part of the memory has room. The order of these
admissions is the plan.

Decided here, where the paper is silent (`memory_split.py` divides the memory, `dual_scanner.py` decides the
rest of the scan):

- Merging (A.2): neighbours in the sorted list form a block of at most 1/64 of the KV pool, so that blocks
  stay far below a side's share. Up to 20,000 requests are not merged at all: each is its own block.
- Units to the right of the job's density are shuffled within density classes (`right_class_ratio`): sorted
  strictly, neighbours have equal lengths, come and go together, and memory use turns into a saw-tooth.
- The right scanner walks its units backwards, which keeps their sharing just as well.
- rho(L) and rho(R) are those of the unit a pointer is in, as in the paper. So that this describes any
  stretch of it, the requests of a node are shuffled too, unless `right_class_ratio` asks for the strict
  order.
- Where the pointers meet, one unit would be run from both ends, at times that only the model of the clock
  brings together. Unless it is a large part of the job, all of it goes to the side that has more of it.
- Tail: the right request that starts last runs on alone. So the admissions of the right side are moved
  forward (`early_tail`): a unit whose longest output takes `d` of the `T` steps of the modelled run starts
  at `1 - d / T` of its time.
- An output length of 0 is scanned as 1, so that no density is infinite and both sides keep a finite pace.
- Each side's current path is kept: sharing is measured with two paths (see `sharing.py`).
- Without any compute or without any memory time there is no density to balance: everything stays on the
  left, in density order.

Source: BlendServe, arXiv:2411.16102, sections 5.2, 5.3 and A.2, Algorithms 1 to 3.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.density import log_density
from sglang_blend.core.dual_scanner import DualScanner, ScanItems
from sglang_blend.core.orders.baselines import not_blended
from sglang_blend.core.orders.placement import Placement
from sglang_blend.core.orders.stationary import tail_factor
from sglang_blend.core.orders.within_loss import within_loss
from sglang_blend.core.orders.worth_blending import nothing_to_blend
from sglang_blend.core.request import Side
from sglang_blend.core.split import Units, cut_by_density, layer_wise_order
from sglang_blend.core.workload import Workload

# Densities of a unit within this factor are not told apart.
_CLASS_RATIO = 2.0
_UNMERGED_REQUESTS = 20_000
_BLOCKS_PER_POOL = 64
# The unit in which the pointers meet is not divided if it has at most this part of the requests.
_UNDIVIDED_RATIO = 1 / 8
# Of the KV pool: a unit with a longer path is scanned by nobody, but run by itself.
_LONGEST_PATH_RATIO = 1 / 8
# Of the job's work: a smaller rest is not blended, but left where it stands.
_LEAST_BLENDED_RATIO = 0.25
# Keeps the scan short when the pool is tiny against the job.
_MOST_BLOCKS = 200_000


def dual_scan(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Plan by the dual scan; keeps at least `1 - sharing_loss` of the possible sharing."""
    if workload.root_density and (why := nothing_to_blend(workload, config)):
        return not_blended(workload, why)
    shuffle_key = rng.random(workload.tree.n)
    strict = config.right_class_ratio == 1.0
    layered = layer_wise_order(workload, None if strict else shuffle_key)

    def place(budget: float) -> Placement:
        units = cut_by_density(workload, _CLASS_RATIO, budget)
        alone, reason = _run_alone(workload, units)
        if alone.all():
            return not_blended(workload, reason)
        in_order = _sort_units(workload, config, units, layered, shuffle_key)
        scanned = _scan(workload, config, units, in_order[~alone[in_order]])
        leaves = np.concatenate([np.flatnonzero(alone), scanned.leaves])
        return scanned._replace(leaves=leaves, reason=reason or scanned.reason)

    return within_loss(workload, config, place)


def _run_alone(workload: Workload, units: Units) -> tuple[NDArray[np.bool_], str]:
    """Leaves of the units whose path leaves no room for another beside it, and why, as a sentence.

    They run first, depth-first. All of them do where the others are too few to blend.
    """
    tree = workload.tree
    path = np.zeros(units.num_units, np.int64)
    np.maximum.at(path, units.of_leaf, tree.leaf_depth)
    is_long = path > _LONGEST_PATH_RATIO * workload.kv_pool_tokens
    if not is_long.any():
        return np.zeros(tree.n, np.bool_), ""
    alone = is_long[units.of_leaf]
    words = (
        f"prefixes of up to {path.max()} tokens do not fit into a KV pool of {workload.kv_pool_tokens} "
        "tokens side by side"
    )
    work = workload.leaf_work_s
    if work[~alone].sum() < _LEAST_BLENDED_RATIO * work.sum():
        return np.ones(tree.n, np.bool_), words
    return alone, f"{alone.sum()} of {tree.n} requests run first, not blended: {words}"


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
    side = np.full(workload.tree.n, Side.NONE, np.int8)
    side[in_order] = Side.LEFT
    if not 0.0 < workload.root_density < np.inf:
        return Placement(in_order, units.of_leaf, side, "there is nothing to balance")
    output = workload.leaf_output_len[in_order].astype(np.float64)
    peak = workload.tree.prompt_len[in_order] + output
    first = _block_starts(peak, workload.kv_pool_tokens)
    memory = workload.memory_s_of_leaves(least_output_len=1)
    unit_density = units.load.compute_s / np.bincount(units.of_leaf, memory, units.num_units)
    peak_tokens = np.add.reduceat(peak, first)
    items = ScanItems(
        compute_s=np.add.reduceat((unit_density[units.of_leaf] * memory)[in_order], first),
        memory_s=np.add.reduceat(memory[in_order], first),
        peak_tokens=peak_tokens,
        request_tokens=np.maximum.reduceat(peak, first),
        token_steps=np.add.reduceat((peak - output / 2) * np.maximum(output, 1.0), first),
        num_steps=np.add.reduceat(peak * np.maximum(output, 1.0), first) / peak_tokens,
    )
    scanner = DualScanner(
        items, mem_tokens=workload.kv_pool_tokens, min_left_requests=config.min_left_requests
    )
    taken = _admissions(scanner, items.num_steps)
    position, size = _expand(first, n, taken)
    leaves = in_order[position]
    side[leaves] = np.repeat(taken.side, size)
    at_step = np.repeat(taken.at_step, size)
    moved = _undivide(units, side)[leaves]
    leaves = np.concatenate([leaves[~moved], leaves[moved]])
    at_step = np.concatenate([at_step[~moved], np.full(int(moved.sum()), taken.at_step[-1])])
    if config.early_tail:
        factor = tail_factor(workload.leaf_output_len, taken.last_step)
        leaves = leaves[_early_tail(units, leaves, side, at_step, factor)]
    return Placement(leaves, units.of_leaf, side)


def _undivide(units: Units, side: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Give the unit that both scanners were in to one of them, in place.

    Returns:
        (n,) bool, the leaves that changed sides; they run after all that their new side had before.
    """
    num_left = np.bincount(units.of_leaf, side == Side.LEFT, units.num_units)
    num_all = np.bincount(units.of_leaf, minlength=units.num_units)
    divided = (num_left > 0) & (num_left < num_all) & (num_all <= _UNDIVIDED_RATIO * len(side))
    whole = np.where(2 * num_left >= num_all, Side.LEFT, Side.RIGHT).astype(np.int8)[units.of_leaf]
    moved: NDArray[np.bool_] = divided[units.of_leaf] & (side != whole)
    side[moved] = whole[moved]
    return moved


def _block_starts(peak: FloatArray, kv_pool_tokens: int) -> IntArray:
    """First list position of each block; see the module on merging."""
    if len(peak) <= _UNMERGED_REQUESTS:
        return np.arange(len(peak))
    upto = np.cumsum(peak)
    grain = max(kv_pool_tokens / _BLOCKS_PER_POOL, upto[-1] / _MOST_BLOCKS)
    block = np.floor((upto - peak) / grain)
    return np.flatnonzero(np.diff(block, prepend=-1.0))


class _Taken(NamedTuple):
    """Blocks in the order the scanner took them.

    Attributes:
        block: (b,) int64.
        side: (b,) int8, which scanner took it.
        at_step: (b,) float64, the clock when it was taken, decode steps.
        last_step: the clock when the last block leaves.
    """

    block: IntArray
    side: NDArray[np.int8]
    at_step: FloatArray
    last_step: float


def _admissions(scanner: DualScanner, stay: FloatArray) -> _Taken:
    """Run the scanner against a clock of decode steps.

    Args:
        stay: (b,) float64, steps that each block stays.
    """
    num_steps: list[float] = stay.tolist()
    block: list[int] = []
    of_side: list[Side] = []
    at_step: list[float] = []
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
        of_side.append(side)
        at_step.append(now)
        block.append(scanner.admit(side))
        heapq.heappush(running, (now + num_steps[block[-1]], block[-1]))
    last_step = max(end for end, _ in running)
    return _Taken(np.array(block, np.int64), np.array(of_side, np.int8), np.array(at_step), last_step)


def _expand(first: IntArray, n: int, taken: _Taken) -> tuple[IntArray, IntArray]:
    """List positions block by block, those of right blocks backwards, and the size of each taken block."""
    size = np.diff(first, append=n)[taken.block]
    step = np.where(taken.side == Side.RIGHT, -1, 1)
    start = first[taken.block] + np.where(step < 0, size - 1, 0)
    inside = np.arange(n) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(start, size) + np.repeat(step, size) * inside, size


def _early_tail(
    units: Units, leaves: IntArray, side: NDArray[np.int8], at_step: FloatArray, tail: FloatArray
) -> IntArray:
    """(n,) int64, positions of `leaves` in an order that starts the right side's units earlier.

    A unit whose longest output takes `d` of the `T` steps starts at `1 - d / T` of its time. Each side's
    requests stay in one line, whole units after one another.
    """
    right = np.flatnonzero(side[leaves] == Side.RIGHT)
    if len(right) == 0:
        return np.arange(len(leaves))
    unit = units.of_leaf[leaves[right]]
    first = np.flatnonzero(np.diff(unit, prepend=-1))
    size = np.diff(first, append=len(right))
    factor = np.minimum.reduceat(tail[leaves[right]], first)
    start = at_step[right][first] * factor
    by_start = np.argsort(start, kind="stable")
    new_size = size[by_start]
    inside = np.arange(len(right)) - np.repeat(np.cumsum(new_size) - new_size, new_size)
    moved = right[np.repeat(first[by_start], new_size) + inside]
    # A unit's later requests keep their distance, and the next unit waits for the last of them.
    at_unit = np.repeat(at_step[right][first[by_start]], new_size)
    early = np.repeat(start[by_start], new_size) + (at_step[moved] - at_unit) * np.repeat(
        factor[by_start], new_size
    )
    step = at_step.copy()
    line = np.arange(len(leaves))
    line[right] = moved
    step[right] = np.maximum.accumulate(early)
    return line[np.argsort(step, kind="stable")]
