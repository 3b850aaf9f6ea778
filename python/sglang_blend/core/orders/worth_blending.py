"""Whether blending can bring anything to a job, and what it may cost.

Blending hides the smaller of compute and memory time behind the larger one, as far as the engine overlaps
them. It costs sharing: what is computed again because paths are left and entered again, or because two paths
do not fit into the KV pool. An order that blends may spend a small part of the job's time, and a part of
what full overlap could hide; where it needs more it does not blend. Bounds, not predictions: an engine that
runs compute and memory one after the other hides nothing, and then the cost is all that is left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.placement import Placement
from sglang_blend.core.sharing import reused_len
from sglang_blend.core.workload import Workload

# Recomputed seconds that an order may cost: of the job's compute and memory time, and of the smaller of them.
_MOST_OF_JOB = 0.005
_MOST_OF_HIDDEN = 0.1


def nothing_to_blend(workload: Workload, config: PlanConfig) -> str:
    """Why no order can blend this job, as a sentence; empty when one might.

    Blending gains at most `(compute + memory) / max(compute, memory) - 1`; and it needs requests on both
    sides of the job's density.
    """
    if workload.tree.n < 2:
        return "there are fewer than two requests"
    compute, memory = workload.total.compute_s, workload.total.memory_s
    if (bound := (compute + memory) / max(compute, memory) - 1.0) < config.min_blend_gain:
        larger, smaller = ("compute", "KV reads") if compute > memory else ("KV reads", "compute")
        return f"{larger} takes so much longer than {smaller} that full overlap would gain only {bound:.1%}"
    dense = workload.leaf_density > workload.root_density
    work = workload.leaf_work_s
    minority = min(work[dense].sum(), work[~dense].sum()) / work.sum()
    if minority < config.min_blend_gain:
        return f"only {minority:.1%} of the work has another density than the rest"
    spread = _log_spread(workload)
    if spread < config.min_blend_gain:
        return f"all requests have the same compute density within {spread:.1%}"
    return ""


class Recomputed(NamedTuple):
    """What an order computes again of shared prefixes.

    Attributes:
        tokens: with a cache of any size; what the order gave up.
        seconds: of compute, with the pool in hand.
    """

    tokens: float
    seconds: float


def recomputed(workload: Workload, placement: Placement) -> Recomputed:
    """What an order computes more than once."""
    tree = workload.tree
    side = placement.side[tree.leaf_of_row]
    reused = reused_len(tree, tree.sequence[placement.leaves], side, workload.pool)
    seconds = workload.leaf_saved_s.sum() - workload.prefix_compute_s(reused.in_pool).sum()
    return Recomputed(float(tree.num_shared_tokens - reused.anywhere.sum()), float(seconds))


def most_recomputed(workload: Workload, config: PlanConfig) -> Recomputed:
    """What a blend may compute again."""
    tree = workload.tree
    compute, memory = workload.total.compute_s, workload.total.memory_s
    return Recomputed(
        config.sharing_loss * min(tree.num_shared_tokens, tree.num_unique_tokens),
        min(_MOST_OF_JOB * (compute + memory), _MOST_OF_HIDDEN * min(compute, memory)),
    )


def _log_spread(workload: Workload) -> float:
    """Work-weighted mean distance of the log densities from their mean; infinite densities count as far."""
    with np.errstate(divide="ignore"):
        log = np.clip(np.log(workload.leaf_density), -30.0, 30.0)
    weight = workload.leaf_work_s / workload.leaf_work_s.sum()
    return float(weight @ np.abs(log - weight @ log))
