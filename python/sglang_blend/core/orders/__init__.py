"""Orders by name, and the one call that plans a job.

    schedule = make_schedule(table, cost, PlanConfig(order="dual-scan"))
    schedule.sequence      # rows in the order to run them

One file an order: `dual_scan`, `stationary`, `auto`, and the `baselines`. `placement` is what they return,
`within_loss` keeps those that trade sharing at their word, `worth_blending` says whether any is needed.

`fcfs`, `random`, `dfs` and `longest-first` need no cost model and take None for it.
"""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import CostModel, IntArray
from sglang_blend.core.orders.auto import Predict, auto, no_slower
from sglang_blend.core.orders.baselines import dfs, fcfs, longest_first, random
from sglang_blend.core.orders.dual_scan import dual_scan
from sglang_blend.core.orders.placement import Order, Placement
from sglang_blend.core.orders.stationary import stationary
from sglang_blend.core.output_length import OutputEstimate, OutputLengths
from sglang_blend.core.prefix_tree import PrefixTree, build_prefix_tree
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.core.sharing import sharing_kept
from sglang_blend.core.workload import Workload
from sglang_blend.errors import PlanError

_ORDERS: dict[str, Order] = {
    "fcfs": fcfs,
    "random": random,
    "dfs": dfs,
    "longest-first": longest_first,
    "dual-scan": dual_scan,
    "stationary": stationary,
}
AUTO = "auto"


def order_names() -> tuple[str, ...]:
    """The names that `PlanConfig.order` may take."""
    return (*_ORDERS, AUTO)


def make_workload(
    table: RequestTable,
    cost: CostModel | None,
    config: PlanConfig,
    *,
    tree: PrefixTree | None = None,
    lengths: OutputEstimate | None = None,
) -> Workload:
    """Tree, expected lengths and loads of a job, for planning several orders over them.

    Args:
        tree: of the same table and page size, when it is there already.
        lengths: expected lengths in row order; None estimates them from `max_new_tokens` alone.
    """
    tree = build_prefix_tree(table, page_size=config.page_size) if tree is None else tree
    lengths = OutputLengths(table, tree, config).estimate() if lengths is None else lengths
    return Workload(table=table, tree=tree, lengths=lengths, cost=cost)


def make_schedule(
    table: RequestTable,
    cost: CostModel | None,
    config: PlanConfig,
    *,
    predict: Predict | None = None,
    predict_drawn: Predict | None = None,
    workload: Workload | None = None,
) -> Schedule:
    """Plan a job.

    Args:
        table: the requests.
        cost: the machine; may be None for orders that do not look at it.
        config: the order and its settings.
        predict: seconds that a schedule would take. `auto` chooses by it, and another order that blends
            gives way to `dfs` where it is not the faster one. Without it only bounds say what blending costs.
        predict_drawn: the same with output lengths drawn at random (`output_length.draw_lengths`) instead of
            each as long as expected; None where they are known.
        workload: from `make_workload` with the same table, cost and config, when it is there already.

    Returns:
        A schedule with every request exactly once. Apart from `fcfs` it depends on the order of the lines
        only where rids are missing (see `RequestTable.rid`).

    Raises:
        PlanError: the order is unknown, or needs a cost model and there is none.
    """
    if config.order not in order_names():
        raise PlanError(f"order {config.order!r} is unknown; the orders are {', '.join(order_names())}")
    workload = make_workload(table, cost, config) if workload is None else workload

    def make(order: str, reason: str) -> Schedule:
        placement = _ORDERS[order](workload, config, np.random.default_rng(config.seed))
        return _to_schedule(workload, config, order, placement, reason or placement.reason)

    predictions = [_remembering(one) for one in (predict, predict_drawn) if one is not None]
    if config.order == AUTO:
        return auto(workload, config, make, predictions)
    schedule = make(config.order, "")
    return no_slower(workload, config, schedule, make, predictions) if predictions else schedule


def _remembering(predict: Predict) -> Predict:
    """The same, asked once for each order."""
    seconds: dict[str, float] = {}

    def remembered(schedule: Schedule) -> float:
        if schedule.order not in seconds:
            seconds[schedule.order] = predict(schedule)
        return seconds[schedule.order]

    return remembered


def _to_schedule(
    workload: Workload, config: PlanConfig, order: str, placement: Placement, reason: str
) -> Schedule:
    """A placement over leaves as a schedule over rows."""
    tree = workload.tree
    sequence = tree.sequence[placement.leaves]
    rank = np.empty(tree.n, np.int64)
    rank[sequence] = np.arange(tree.n)
    leaf: IntArray = tree.leaf_of_row
    side = placement.side[leaf]
    schedule = Schedule(
        order=placement.instead or order,
        rank=rank,
        side=side,
        est_output_len=workload.lengths.est_output_len,
        admission_output_len=workload.lengths.admission_output_len,
        unit=placement.unit[leaf],
        sharing_kept=sharing_kept(tree, sequence, side, workload.pool),
        root_density=_finite_density(workload),
        seed=config.seed,
        config=config.to_json(),
        reason=reason,
        num_observed=workload.lengths.num_observed,
    )
    schedule.check_integrity()
    return schedule


def _finite_density(workload: Workload) -> float | None:
    density = np.inf if workload.cost is None else workload.root_density
    return float(density) if np.isfinite(density) else None
