"""Takes the order with the lowest predicted makespan, and `dfs` where blending brings nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.stationary import expected_steps
from sglang_blend.core.orders.worth_blending import nothing_to_blend
from sglang_blend.core.request import Schedule
from sglang_blend.core.workload import Workload

Predict = Callable[[Schedule], float]

CANDIDATES = ("dfs", "stationary", "dual-scan")
# An order must be predicted to be faster than those before it by more than the prediction can tell.
_LEAST_GAIN = 0.005
# Beside dfs, which loses nothing, it must be more where output lengths are not known: any request may be the
# longest and start last, which few predictions see. At least the first, and at least this part of the share
# of the job's decode steps that the longest output may take. With half that part, or without the prediction
# with drawn lengths, orders lose up to 14% on the trees of tests/simulate/deep_trees.py.
_LEAST_GAIN_UNKNOWN = 0.03
_GAIN_OF_LONGEST = 1 / 8


def auto(
    workload: Workload,
    config: PlanConfig,
    make: Callable[[str, str], Schedule],
    predictions: Sequence[Predict],
) -> Schedule:
    """Choose an order.

    Args:
        make: makes the schedule of an order, with the reason it is taken.
        predictions: of the seconds that a schedule would take, the likeliest first. An order is taken for
            faster than another where each of them says so.

    Returns:
        A schedule whose `reason` says why it was taken.
    """
    if workload.cost is None:
        return make("dfs", "dfs: without a cost model nothing is known about compute and memory time")
    if why := nothing_to_blend(workload, config):
        return make("dfs", f"dfs: {why}")
    if not predictions:
        return make("dfs", "dfs: without a prediction of the makespan no order can be told to be better")
    schedules = {name: make(name, "") for name in CANDIDATES}
    best = CANDIDATES[0]
    least_gain = _least_gain(workload, config)
    for name in CANDIDATES[1:]:
        least = least_gain if best == CANDIDATES[0] else _LEAST_GAIN
        if _is_faster(schedules[name], schedules[best], predictions, least):
            best = name
    listed = ", ".join(f"{name} {predictions[0](schedules[name]):.1f} s" for name in CANDIDATES)
    return replace(schedules[best], reason=f"{best}: by predicted makespan ({listed})")


def no_slower(
    workload: Workload,
    config: PlanConfig,
    schedule: Schedule,
    make: Callable[[str, str], Schedule],
    predictions: Sequence[Predict],
) -> Schedule:
    """A schedule of an order that blends, or that of `dfs` where the former is not surely the faster one.

    Args:
        make, predictions: as for `auto`.

    Returns:
        One of the two; its `reason` says so when it is that of `dfs`.
    """
    order = schedule.order
    if order == CANDIDATES[0] or order not in CANDIDATES:
        return schedule
    plain = make(CANDIDATES[0], "")
    least_gain = _least_gain(workload, config)
    if _is_faster(schedule, plain, predictions, least_gain):
        return schedule
    listed = " or ".join(f"{predict(schedule):.1f} s, dfs {predict(plain):.1f} s" for predict in predictions)
    why = f"{order} is predicted to take {listed}, and a gain below {least_gain:.1%} is not sure"
    return replace(plain, reason=f"dfs, not blended: {why}")


def _is_faster(schedule: Schedule, than: Schedule, predictions: Sequence[Predict], least_gain: float) -> bool:
    """By more than that share of the other's time, whichever prediction is asked."""
    return all(predict(schedule) < (1.0 - least_gain) * predict(than) for predict in predictions)


def _least_gain(workload: Workload, config: PlanConfig) -> float:
    """What an order must be predicted to gain over dfs, as a share of its time."""
    is_open = ~workload.table.fixed_output
    num_open = int(is_open.sum())
    unknown = max(1.0 - workload.lengths.num_observed / num_open, 0.0) if num_open else 0.0
    longest = float(workload.table.max_new_tokens.max(where=is_open, initial=0))
    of_longest = _GAIN_OF_LONGEST * min(longest / expected_steps(workload, config), 1.0)
    return _LEAST_GAIN + unknown * (max(_LEAST_GAIN_UNKNOWN, of_longest) - _LEAST_GAIN)
