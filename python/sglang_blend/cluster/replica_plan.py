"""The plan of a job for several replicas in one call: order, cut, and the work that the queue goes by.

    plan = plan_for_replicas(table, cost, PlanConfig(order="stationary"), [1.0] * 8)
    plan.schedule, plan.parts, plan.work_s

A job on a running cluster makes the same plan step by step, with what it learns on the way
(`plan.job_plan.JobPlan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sglang_blend.cluster.partition import Partition, cut
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import FloatArray
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.orders.auto import Predict
from sglang_blend.core.output_length import OutputEstimate
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.cost.roofline import RooflineCost


class ClusterPlan(NamedTuple):
    """What replicas need to know of a job.

    Attributes:
        schedule: one order for all; a replica runs those of its part in this order.
        parts: who runs what, before anybody steals.
        work_s: (n,) float64, expected seconds of compute and memory time of each row.
    """

    schedule: Schedule
    parts: Partition
    work_s: FloatArray


def plan_for_replicas(
    table: RequestTable,
    cost: RooflineCost,
    config: PlanConfig,
    rates: Sequence[float],
    *,
    tree: PrefixTree | None = None,
    lengths: OutputEstimate | None = None,
    predict: Predict | None = None,
    predict_drawn: Predict | None = None,
) -> ClusterPlan:
    """Plan a job, in the time scale of a part, and cut it.

    Args:
        cost: of one replica. The order is planned for as many KV pools as there are replicas and for units
            that are so much smaller, so that a long output counts against what one replica runs.
        rates: (N,) speed of each replica, in any unit, above 0.
        tree, lengths: of the same table, when they are there already.
        predict, predict_drawn: as for `make_schedule`.

    Raises:
        PlanError: as `make_schedule` and `cut`.
    """
    config = replace(config, num_replicas=max(len(rates), 1))
    wide = cost.with_pools(config.num_replicas)
    workload = make_workload(table, wide, config, tree=tree, lengths=lengths)
    return ClusterPlan(
        schedule=make_schedule(
            table, wide, config, predict=predict, predict_drawn=predict_drawn, workload=workload
        ),
        parts=cut(workload, config, rates),
        work_s=workload.leaf_work_s[workload.tree.leaf_of_row],
    )
