"""Takes the order with the lowest predicted makespan, and `dfs` where there is nothing to blend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.request import Schedule
from sglang_blend.core.workload import Workload

# An order must be predicted to be faster than those before it by more than the prediction can tell.
CANDIDATES = ("dfs", "stationary", "dual-scan")
_LEAST_GAIN = 0.005


def nothing_to_blend(workload: Workload, config: PlanConfig) -> str:
    """Why no order can blend this job, as a sentence; empty when one might.

    Blending hides the smaller of compute and memory time behind the larger one, so it gains at most
    `(compute + memory) / max(compute, memory) - 1`; and it needs requests on both sides of the job's density.
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


def auto(
    workload: Workload,
    config: PlanConfig,
    make: Callable[[str, str], Schedule],
    predict: Callable[[Schedule], float] | None,
) -> Schedule:
    """Choose an order.

    Args:
        make: makes the schedule of an order, with the reason it is taken.
        predict: seconds that a schedule would take.

    Returns:
        A schedule whose `reason` says why it was taken.
    """
    if workload.cost is None:
        return make("dfs", "dfs: without a cost model nothing is known about compute and memory time")
    if why := nothing_to_blend(workload, config):
        return make("dfs", f"dfs: {why}")
    if predict is None:
        return make("dfs", "dfs: without a prediction of the makespan no order can be told to be better")
    schedules = {name: make(name, "") for name in CANDIDATES}
    seconds = {name: predict(schedule) for name, schedule in schedules.items()}
    best = CANDIDATES[0]
    for name in CANDIDATES[1:]:
        if seconds[name] < (1.0 - _LEAST_GAIN) * seconds[best]:
            best = name
    listed = ", ".join(f"{name} {seconds[name]:.1f} s" for name in CANDIDATES)
    return replace(schedules[best], reason=f"{best}: by predicted makespan ({listed})")


def _log_spread(workload: Workload) -> float:
    """Work-weighted mean distance of the log densities from their mean; infinite densities count as far."""
    with np.errstate(divide="ignore"):
        log = np.clip(np.log(workload.leaf_density), -30.0, 30.0)
    weight = workload.leaf_work_s / workload.leaf_work_s.sum()
    return float(weight @ np.abs(log - weight @ log))
