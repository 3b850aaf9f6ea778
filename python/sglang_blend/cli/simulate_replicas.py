"""`sglang-blend simulate --replicas 1,2,4`: the same job shared by so many modelled engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_blend.cluster.replica_plan import plan_for_replicas
from sglang_blend.cluster.simulated import simulate_cluster
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.output_length import OutputEstimate, draw_lengths
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import ConfigError
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.predict import MakespanPredictor
from sglang_blend.simulate.simulated_job import SimulatedJob

REPLICA_COLUMNS = (
    "replicas",
    "order",
    "mode",
    "makespan_s",
    "speedup",
    "efficiency",
    "optimum_fraction",
    "sharing_kept",
    "retractions",
    "steals",
)


def replica_counts(text: str) -> list[int]:
    """The numbers of `--replicas`, ascending.

    Raises:
        ConfigError: one is not a whole number of 1 or more, or there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words or [text]:
        if not word.isdecimal() or int(word) < 1:
            raise ConfigError(
                f"--replicas is {text!r}; whole numbers of 1 or more are allowed, such as 1,2,4"
            )
    return sorted({int(word) for word in words})


def replica_records(
    counts: list[int],
    engine: EngineConfig,
    config: PlanConfig,
    *,
    table: RequestTable,
    job: SimulatedJob,
    cost: RooflineCost,
    tree: PrefixTree,
    lengths: OutputEstimate,
) -> Iterator[dict[str, Any]]:
    """One record for each number of replicas; speedup and efficiency are against the first of them."""
    bounds = bounds_of(job.tree, job.output_len, cost, engine.interference)
    first_s = None
    for count in counts:
        drawn = draw_lengths(table, lengths, config.seed)
        predict, predict_drawn = (
            MakespanPredictor(
                table, cost, engine, tree=tree, output_len=truth, seed=config.seed, num_replicas=count
            )
            for truth in (None, drawn)
        )
        plan = plan_for_replicas(
            table,
            cost,
            config,
            [1.0] * count,
            tree=tree,
            lengths=lengths,
            predict=predict,
            predict_drawn=None if drawn is None else predict_drawn,
        )
        result = simulate_cluster(job, plan.schedule, plan.parts, cost, engine, work_s=plan.work_s)
        first_s = result.makespan_s if first_s is None else first_s
        speedup = first_s / result.makespan_s if result.makespan_s else 1.0
        share = bounds.on_replicas(count)
        yield {
            "replicas": count,
            "order": config.order,
            "mode": engine.mode,
            "makespan_s": result.makespan_s,
            "speedup": speedup,
            "efficiency": speedup * counts[0] / count,
            "optimum_s": share.optimum_s,
            "optimum_fraction": share.optimum_s / result.makespan_s if result.makespan_s else 1.0,
            "practical_optimum_s": share.practical_s,
            "busy_ratio": result.busy_ratio,
            "sharing_kept": result.sharing_kept,
            "cut_lost_ratio": plan.parts.lost_ratio,
            "retractions": result.retractions,
            "steals": result.num_steals,
            "stolen_requests": result.num_stolen,
            "seed": config.seed,
            "simulated": True,
        }
