"""Simulated scale: one job on many replicas, with and without work stealing; and the time that a cut takes.

    python scripts/bench_cluster.py strong --out strong.jsonl     # the same job on 1, 2, 4 and 8 replicas
    python scripts/bench_cluster.py weak   --out weak.jsonl       # a job that grows with 1, 2, 4, 8, 64, 512
    python scripts/bench_cluster.py cut    --out cut.jsonl        # seconds for 1,000,000 requests, 512 parts
    python scripts/bench_cluster.py table  --out strong.jsonl     # what a file holds, as Markdown

Every record is appended when it is done and skipped when it is there, so a run may be stopped and started
again. Jobs are the paper's four main traces; all engines are as in bench_simulator.py: overlap, Llama-3.1-8B,
A100-80, peak admission, the balanced token budget, output lengths known from a 1% sample. Strong: the job's
optimum takes --optimum-s on one replica. Weak: --per-replica requests for each replica. Speedup is work a
second against one replica, where a job's work is its optimum; for one job that is the ratio of makespans.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from bench_simulator import Case, build, read_records

from sglang_blend.cluster.partition import cut
from sglang_blend.cluster.replica_plan import ClusterPlan, plan_for_replicas
from sglang_blend.cluster.simulated import simulate_cluster
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.orders import make_workload
from sglang_blend.core.output_length import OutputEstimate, OutputLengths, choose_sample
from sglang_blend.core.prefix_tree import PrefixTree, build_prefix_tree
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.synthesis import paper_trace, synthesise

STRONG, WEAK = "1,2,4,8", "1,2,4,8,64,512"


@dataclass(kw_only=True)
class Job:
    """A made job with what is expected of it."""

    table: RequestTable
    output_len: IntArray
    tree: PrefixTree
    lengths: OutputEstimate

    @classmethod
    def of(cls, table: RequestTable, output_len: IntArray, seed: int) -> Job:
        """Lengths are sampled as a real job does it."""
        config = PlanConfig(seed=seed)
        tree = build_prefix_tree(table)
        lengths = OutputLengths(table, tree, config)
        rows = choose_sample(table, tree, config.sample_ratio, np.random.default_rng(seed))
        lengths.observe(rows, output_len[rows])
        return cls(table=table, output_len=output_len, tree=tree, lengths=lengths.estimate())


def main() -> int:
    """Runs or tabulates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("strong", "weak", "cut", "table"))
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines; appended to")
    parser.add_argument("--traces", default="1,2,3,4", help="of the paper's main traces (default all four)")
    parser.add_argument("--orders", default="dual-scan,stationary")
    parser.add_argument("--replicas", help=f"default {STRONG} (strong), {WEAK} (weak), 512 (cut)")
    parser.add_argument(
        "--optimum-s", type=float, default=2400.0, help="strong: size of the job (default 2400)"
    )
    parser.add_argument(
        "--per-replica", type=int, default=10_000, help="weak: requests of a replica (default 10000)"
    )
    parser.add_argument(
        "--most-requests", type=int, default=1_000_000, help="weak, cut: of a whole job (default 1000000)"
    )
    parser.add_argument("--budget", choices=("balanced", "paced"), default="balanced")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.what == "table":
        print(tabulate(read_records(args.out)))
        return 0
    cost = RooflineCost(shape=model_shape("llama-3.1-8b"), hardware=hardware("A100"))
    run = {"strong": run_strong, "weak": run_weak, "cut": run_cut}[args.what]
    for record in run(cost, args, {key_of(record) for record in read_records(args.out)}):
        with args.out.open("ab") as file:
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        print(one_line(record), file=sys.stderr, flush=True)
    print(tabulate(read_records(args.out)))
    return 0


def run_strong(cost: RooflineCost, args: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """The same job on each number of replicas."""
    for trace in numbers(args.traces):
        case = Case(name=f"trace {trace}", seed=args.seed, spec=paper_trace(trace))
        job = None
        for order, count, steal in settings(args, STRONG):
            start = {"what": "strong", "trace": trace, "optimum_s": args.optimum_s} | setting(
                args, order, count, steal
            )
            if key_of(start) in done:
                continue
            if job is None:
                job = Job.of(*build(case, cost, args.optimum_s), args.seed)
            yield start | simulate(job, cost, args, order, count, steal)


def run_weak(cost: RooflineCost, args: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """A job of its own for each number of replicas, of as many requests for each of them."""
    for trace in numbers(args.traces):
        job, job_count = None, 0
        by_count = sorted(settings(args, WEAK), key=lambda item: item[1])
        for order, count, steal in by_count:
            if count * args.per_replica > args.most_requests:
                continue
            start = {"what": "weak", "trace": trace, "per_replica": args.per_replica} | setting(
                args, order, count, steal
            )
            if key_of(start) in done:
                continue
            if job is None or job_count != count:
                job = None  # one at a time in memory
                spec = replace(paper_trace(trace), num_requests=count * args.per_replica)
                made = synthesise(cost, spec, seed=args.seed)
                job, job_count = Job.of(made.table, made.output_len, args.seed), count
            yield start | simulate(job, cost, args, order, count, steal)


def run_cut(cost: RooflineCost, args: argparse.Namespace, done: set[str]) -> Iterator[dict[str, Any]]:
    """Processor seconds of `cut` when everything that planning needs in any case is there."""
    for trace in numbers(args.traces):
        job = None
        for count in numbers(args.replicas or "512"):
            start = {"what": "cut", "trace": trace, "num_requests": args.most_requests, "replicas": count}
            start |= {"seed": args.seed}
            if key_of(start) in done:
                continue
            if job is None:
                spec = replace(paper_trace(trace), num_requests=args.most_requests)
                made = synthesise(cost, spec, seed=args.seed)
                job = Job.of(made.table, made.output_len, args.seed)
            config = PlanConfig(seed=args.seed, num_replicas=count)
            workload = make_workload(
                job.table, cost.with_pools(count), config, tree=job.tree, lengths=job.lengths
            )
            # A planned job has these; they are computed when they are first asked for.
            assert len(workload.leaf_work_s) == job.table.n
            assert len(workload.node_load.memory_s) == job.tree.num_nodes
            started, cpu = time.perf_counter(), time.process_time()
            parts = cut(workload, config, [1.0] * count)
            yield start | {
                "cut_s": time.perf_counter() - started,
                "cut_cpu_s": time.process_time() - cpu,
                "lost_ratio": parts.lost_ratio,
                "most_compute_over_mean": float(parts.compute_s.max() / parts.compute_s.mean()),
                "most_memory_over_mean": float(parts.memory_s.max() / parts.memory_s.mean()),
            }


def settings(args: argparse.Namespace, default: str) -> Iterator[tuple[str, int, bool]]:
    """Order, number of replicas, stealing; one replica has nobody to steal from."""
    for order in args.orders.split(","):
        for count in numbers(args.replicas or default):
            yield from ((order, count, steal) for steal in ((True, False) if count > 1 else (True,)))


def setting(args: argparse.Namespace, order: str, count: int, steal: bool) -> dict[str, Any]:
    """What else a record is known by."""
    return {"order": order, "replicas": count, "steal": steal, "budget": args.budget, "seed": args.seed}


def simulate(
    job: Job, cost: RooflineCost, args: argparse.Namespace, order: str, count: int, steal: bool
) -> dict[str, Any]:
    """Plans and runs."""
    config = PlanConfig(order=order, seed=args.seed)
    started = time.perf_counter()
    plan: ClusterPlan = plan_for_replicas(
        job.table, cost, config, [1.0] * count, tree=job.tree, lengths=job.lengths
    )
    planned = time.perf_counter()
    engine = EngineConfig(mode="overlap", admission="peak", paced=args.budget == "paced")
    simulated = SimulatedJob.from_table(job.table, job.output_len, tree=job.tree)
    result = simulate_cluster(
        simulated, plan.schedule, plan.parts, cost, engine, work_s=plan.work_s, steal=steal
    )
    assert result.num_requests == job.table.n, "every request ran"
    share = bounds_of(simulated.tree, job.output_len, cost, engine.interference).on_replicas(count)
    return {
        "num_requests": job.table.n,
        "makespan_s": result.makespan_s,
        "optimum_fraction": share.optimum_s / result.makespan_s,
        "practical_fraction": share.practical_s / result.makespan_s,
        "busy_ratio": result.busy_ratio,
        "sharing_kept": result.sharing_kept,
        "cut_lost_ratio": plan.parts.lost_ratio,
        "retractions": result.retractions,
        "steals": result.num_steals,
        "stolen": result.num_stolen,
        "plan_s": planned - started,
        "simulation_s": time.perf_counter() - planned,
        "simulated": True,
    }


_KEYS = ("what", "trace", "optimum_s", "per_replica", "num_requests")
_KEYS += ("order", "replicas", "steal", "budget", "seed")


def key_of(record: dict[str, Any]) -> str:
    """What a record is the result of; the size of a simulated job follows from the rest."""
    keys = [name for name in _KEYS if name != "num_requests" or record["what"] == "cut"]
    return str([record.get(name) for name in keys])


def numbers(text: str) -> list[int]:
    """Comma-separated."""
    return [int(word) for word in text.split(",")]


def one_line(record: dict[str, Any]) -> str:
    """A record in a line."""
    if record["what"] == "cut":
        return f"trace {record['trace']}, {record['replicas']} parts: {record['cut_s']:.2f} s"
    return (
        f"{record['what']} trace {record['trace']}, {record['num_requests']} requests, {record['order']}, "
        f"{record['replicas']} replicas{'' if record['steal'] else ' without stealing'}: "
        f"{record['makespan_s']:.1f} s, sharing {record['sharing_kept']:.4f} "
        f"({record['plan_s']:.0f} + {record['simulation_s']:.0f} s)"
    )


def tabulate(records: list[dict[str, Any]]) -> str:
    """Markdown: a row for each job, order and number of replicas."""
    cuts = [record for record in records if record["what"] == "cut"]
    lines = []
    if cuts:
        lines += [
            "| trace | requests | parts | cut, s | processor s | sharing lost "
            "| largest compute, memory of a part |",
            "|---|---:|---:|---:|---:|---:|---|",
        ]
    for record in cuts:
        lines.append(
            f"| {record['trace']} | {record['num_requests']} | {record['replicas']} | {record['cut_s']:.2f} "
            f"| {record['cut_cpu_s']:.2f} | {record['lost_ratio']:.2%} | "
            f"{record['most_compute_over_mean']:.4f}, {record['most_memory_over_mean']:.4f} of the mean |"
        )
    runs = [record for record in records if record["what"] != "cut"]
    if runs:
        lines += [
            "| scaling | trace | requests | order | replicas | speedup | efficiency | without stealing "
            "| busy | of optimum | sharing kept | steals |",
            "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
    by_key = {key_of(record): record for record in runs}
    for record in runs:
        first = by_key.get(key_of(record | {"replicas": 1, "steal": True}))
        if not record["steal"] or first is None:
            continue
        speedup = speedup_of(record, first)
        plain = by_key.get(key_of(record | {"steal": False}))
        lines.append(
            f"| {record['what']} | {record['trace']} | {record['num_requests']} | {record['order']} | "
            f"{record['replicas']} | {speedup:.2f} | {speedup / record['replicas']:.1%} | "
            f"{'-' if plain is None else format(speedup_of(plain, first) / record['replicas'], '.1%')} | "
            f"{record['busy_ratio']:.1%} | {record['optimum_fraction']:.1%} | "
            f"{record['sharing_kept']:.2%} | {record['steals']} |"
        )
    return "\n".join(lines)


def speedup_of(record: dict[str, Any], first: dict[str, Any]) -> float:
    """Work a second against that of one replica; the job's optimum says how much work it is."""
    return float(record["replicas"] * record["optimum_fraction"] / first["optimum_fraction"])


if __name__ == "__main__":
    raise SystemExit(main())
