"""Makespans of the planned orders over that of dfs, simulated: on made trees, and on the shared traces.

    PYTHONPATH=python:tests python -m simulate.never_loses --trees 200
    PYTHONPATH=python:tests python -m simulate.never_loses --traces

One line a job, mode and order: the ratio, the sharing planned and at run time, and why dfs was taken where it
was; at the end the worst. A part of the trees is a test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from sglang_blend.cli.predictions import Predictions
from sglang_blend.cli.simulate_job import known_lengths
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.simulate.engine_config import EngineConfig, Mode
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation
from sglang_blend.simulate.simulator import simulate_schedule
from sglang_blend.simulate.trace_file import table_from_trace
from shared_folder import SHARED
from simulate.deep_trees import TreeSpec, make_tree, tree_specs

ORDERS = ("dual-scan", "stationary", "auto")
MODES: tuple[Mode, ...] = ("default", "mixed", "overlap")
TRACES = (
    "sharegpt.csv",
    "lmsys.csv.gz",
    "azure_2023_conv.csv",
    "mooncake_conversation.csv",
    "mooncake_conversation_blocks.jsonl.gz",
)


class Compared(NamedTuple):
    """An order beside dfs; `ran` is the order that was taken in the end."""

    mode: str
    order: str
    ran: str
    ratio: float
    planned: float
    kept: float
    reason: str


def compare(
    table: RequestTable, output_len: IntArray, cost: RooflineCost, lengths: str
) -> Iterator[Compared]:
    """Every planned order in every mode; `lengths` is "known" or "sampled"."""
    config = PlanConfig()
    tree = build_prefix_tree(table)
    job = SimulatedJob.from_table(table, output_len, tree=tree)
    known = known_lengths(lengths, table, output_len, tree, config)
    workload = make_workload(table, cost, config, tree=tree, lengths=known)
    for mode in MODES:
        engine = EngineConfig(mode=mode).under("dual-scan")
        predictions = Predictions(workload, cost, engine, config.seed)
        runs: dict[str, Simulation] = {}
        for order in ("dfs", *ORDERS):
            schedule = make_schedule(
                table,
                cost,
                replace(config, order=order),
                predict=predictions.makespan_s,
                predict_drawn=predictions.predict_drawn,
                workload=workload,
            )
            if schedule.order not in runs:
                runs[schedule.order] = simulate_schedule(job, schedule, cost, engine)
            run = runs[schedule.order]
            if order != "dfs":
                yield Compared(
                    mode,
                    order,
                    schedule.order,
                    run.makespan_s / runs["dfs"].makespan_s,
                    schedule.sharing_kept,
                    run.sharing_kept,
                    schedule.reason,
                )


def compare_tree(spec: TreeSpec) -> Iterator[Compared]:
    """The same for a made tree in a pool of its size."""
    table, output_len = make_tree(spec)
    yield from compare(
        table, output_len, _cost("A100", spec.pool_tokens), "known" if spec.known else "sampled"
    )


def _cost(name: str, pool_tokens: int | None = None) -> RooflineCost:
    return RooflineCost(shape=model_shape("llama-3.1-8b"), hardware=hardware(name), pool_tokens=pool_tokens)


def _jobs(args: argparse.Namespace) -> Iterator[tuple[str, Iterator[Compared]]]:
    for spec in tree_specs(args.trees)[args.first :: args.step]:
        yield spec.name, compare_tree(spec)
    for name in TRACES if args.traces else ():
        path = SHARED / "workloads" / "traces" / name
        table, output_len = table_from_trace(path, limit=args.limit)
        yield name, compare(table, output_len, _cost(args.hardware), "sampled")


def main() -> None:
    """Prints as it goes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trees", type=int, default=0, help="made trees, number 0 on")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--step", type=int, default=1, help="and take every so many")
    parser.add_argument("--traces", action="store_true", help="the shared traces")
    parser.add_argument("--limit", type=int, default=3000, help="requests of a trace (default 3000)")
    parser.add_argument("--hardware", default="A100", help="for the traces (default A100)")
    args = parser.parse_args()
    worst = (0.0, "")
    for name, rows in _jobs(args):
        for row in rows:
            line = (
                f"{row.ratio:.4f}  {row.mode:8}{row.order:11} ran {row.ran:11}planned {row.planned:.4f}  "
                f"at run time {row.kept:.4f}  {name}  {row.reason}"
            )
            print(line, flush=True)
            worst = max(worst, (row.ratio, line))
    print(f"worst: {worst[1]}")


if __name__ == "__main__":
    main()
