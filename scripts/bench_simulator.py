"""Simulated orders on the paper's traces: dual-scan and stationary against contiguous DFS. Simulated.

    python scripts/bench_simulator.py main  --out main.jsonl      # traces 1 to 4, three seeds
    python scripts/bench_simulator.py grid  --out grid.jsonl      # 65 points, one seed
    python scripts/bench_simulator.py mooncake --trace mooncake_conversation_blocks.jsonl.gz --out
    mooncake.jsonl
    python scripts/bench_simulator.py table --out main.jsonl      # what a file holds, as Markdown

Every record is appended when it is done and skipped when it is there, so a run may be stopped and started
again, or cut with --most. All orders run in the same engine: overlap, Llama-3.1-8B, one A100-80 (mooncake:
H200), peak admission, output lengths known from a 1% sample; each with two token budgets (balanced step,
paced n*), of which its better counts. Sources are contiguous in DFS, since each has its own system prompt.
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

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.output_length import OutputLengths, choose_sample
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.errors import PlanError
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate_schedule
from sglang_blend.simulate.synthesis import SynthesisSpec, paper_grid, paper_trace, synthesise
from sglang_blend.simulate.trace_file import table_from_trace

ORDERS = ("dfs", "dual-scan", "stationary")
BUDGETS = ("balanced", "paced")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job: a made workload, or a trace file."""

    name: str
    seed: int
    spec: SynthesisSpec | None = None
    trace: Path | None = None
    limit: int | None = None


def main() -> int:
    """Runs or tabulates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("main", "grid", "mooncake", "table"))
    parser.add_argument("--out", type=Path, required=True, help="JSON Lines; appended to")
    parser.add_argument(
        "--optimum-s",
        type=float,
        default=1200.0,
        help="size of a made job: seconds of its optimum (default 1200)",
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this many less one (default 1)")
    parser.add_argument("--most", type=int, default=10**9, help="stop after so many new cases")
    parser.add_argument("--mode", default="overlap", help="engine mode (default overlap)")
    parser.add_argument("--hardware", default=None, help="default A100, mooncake H200")
    parser.add_argument("--model-shape", default="llama-3.1-8b")
    parser.add_argument(
        "--long-output",
        default="openvid-short",
        help="openvid is the paper's 16384 tokens; use --optimum-s 15000",
    )
    parser.add_argument("--orders", default=",".join(ORDERS))
    parser.add_argument("--budgets", default=",".join(BUDGETS), help="token budgets to try (default both)")
    parser.add_argument("--admission", default="peak")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--limit", type=int, default=1200)
    args = parser.parse_args()
    if args.what == "table":
        print(tabulate(read_records(args.out)))
        return 0
    name = args.hardware or ("H200" if args.what == "mooncake" else "A100")
    cost = RooflineCost(shape=model_shape(args.model_shape), hardware=hardware(name))
    done = {record["case"] for record in read_records(args.out)}
    fresh = 0
    for case in cases(args):
        if case.name in done or fresh >= args.most:
            continue
        fresh += 1
        started = time.perf_counter()
        record = run_case(case, cost, args)
        with args.out.open("ab") as file:
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        print(
            f"{case.name}: {one_line(record)} ({time.perf_counter() - started:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    print(tabulate(read_records(args.out)))
    return 0


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """The jobs of a run, in order."""
    if args.what == "mooncake":
        yield Case(name=f"mooncake first {args.limit}", seed=0, trace=args.trace, limit=args.limit)
        return
    for seed in range(args.seeds):
        specs = [paper_trace(k) for k in (1, 2, 3, 4)] if args.what == "main" else spread(paper_grid())
        for number, spec in enumerate(specs, start=1):
            label = f"trace {number}" if args.what == "main" else "grid"
            spec = replace(spec, long_output=args.long_output)
            yield Case(
                name=f"{label} ({spec.density:.2f}, {spec.sharing:.0%}) seed {seed}", seed=seed, spec=spec
            )


def spread(specs: list[SynthesisSpec]) -> list[SynthesisSpec]:
    """Every other point first, so that a part of a run covers the whole grid."""
    return specs[::2] + specs[1::2]


def build(case: Case, cost: RooflineCost, optimum_s: float) -> tuple[RequestTable, IntArray]:
    """The case's requests; made workloads are sized so that their optimum takes `optimum_s`."""
    if case.trace is not None:
        return table_from_trace(case.trace, limit=case.limit)
    assert case.spec is not None, "a case has a spec or a trace"
    num = 4000
    for _ in range(3):  # few long outputs make a small job's optimum uneven, so the size is approached
        trace = synthesise(cost, replace(case.spec, num_requests=num), seed=case.seed)
        job = SimulatedJob.from_table(trace.table, trace.output_len)
        ratio = optimum_s / bounds_of(job.tree, trace.output_len, cost, 0.0).optimum_s
        if abs(ratio - 1.0) < 0.05:
            break
        num = max(100, round(num * ratio))
    return trace.table, trace.output_len


def run_case(case: Case, cost: RooflineCost, args: argparse.Namespace) -> dict[str, Any]:
    """Plans and simulates a case in every order and budget."""
    try:
        table, output_len = build(case, cost, args.optimum_s)
    except PlanError as error:
        return {"case": case.name, "error": str(error), "orders": {}}
    config = PlanConfig(seed=case.seed)
    tree = build_prefix_tree(table)
    lengths = OutputLengths(table, tree, config)
    rows = choose_sample(table, tree, config.sample_ratio, np.random.default_rng(case.seed))
    lengths.observe(rows, output_len[rows])
    workload = make_workload(table, cost, config, tree=tree, lengths=lengths.estimate())
    job = SimulatedJob.from_table(table, output_len, tree=tree)
    orders: dict[str, dict[str, Any]] = {}
    for order in args.orders.split(","):
        schedule = make_schedule(table, cost, replace(config, order=order), workload=workload)
        for budget in args.budgets.split(","):
            engine = EngineConfig(mode=args.mode, admission=args.admission, paced=budget == "paced")
            result = simulate_schedule(job, schedule, cost, engine)
            found = {
                "budget": budget,
                "makespan_s": result.makespan_s,
                "optimum_fraction": result.optimum_fraction,
                "practical_fraction": result.practical_fraction,
                "sharing_kept": result.sharing_kept,
                "retractions": result.retractions,
                "tail_s": result.tail_s,
                "mean_kv_occupancy": result.mean_kv_occupancy,
            }
            if order not in orders or found["makespan_s"] < orders[order]["makespan_s"]:
                orders[order] = found
    bounds = result.bounds
    return {
        "case": case.name,
        "seed": case.seed,
        "num_requests": table.n,
        "density": bounds.density,
        "optimum_s": bounds.optimum_s,
        "practical_s": bounds.practical_s,
        "mode": args.mode,
        "model": cost.shape.name,
        "hardware": cost.hardware.name,
        "orders": orders,
        "simulated": True,
    }


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; none if it is not there yet."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def one_line(record: dict[str, Any]) -> str:
    """A record in a line."""
    if "error" in record:
        return str(record["error"])
    return ", ".join(f"{name} {found['makespan_s']:.0f} s" for name, found in record["orders"].items())


def tabulate(records: list[dict[str, Any]]) -> str:
    """Markdown: makespan, share of the optimum / practical optimum, and gain over dfs; means at the end."""
    lines = [
        "| case | requests | ceiling | dfs | other orders: share of optimum / of practical optimum "
        "(gain over dfs) |",
        "|---|---:|---:|---:|---|",
    ]
    gains: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        if "error" in record:
            lines.append(f"| {record['case']} | - | - | - | {record['error']} |")
            continue
        base = record["orders"]["dfs"]
        cells = []
        for name, found in record["orders"].items():
            gain = base["makespan_s"] / found["makespan_s"] - 1.0
            gains.setdefault(name, []).append((gain, found["optimum_fraction"], found["practical_fraction"]))
            if name != "dfs":
                cells.append(
                    f"{name} {found['optimum_fraction']:.1%} / {found['practical_fraction']:.1%} "
                    f"({gain:+.1%})"
                )
        lines.append(
            f"| {record['case']} | {record['num_requests']} | "
            f"{record['optimum_s'] / record['practical_s']:.1%} | "
            f"{base['optimum_fraction']:.1%} / {base['practical_fraction']:.1%} | {'; '.join(cells)} |"
        )
    for name, rows in gains.items():
        gain, optimum, practical = np.array(rows).T
        lines.append(
            f"\nmean of {len(rows)}, {name}: {optimum.mean():.1%} of optimum, {practical.mean():.1%} "
            "of practical optimum, "
            f"gain {gain.mean():+.1%} (from {gain.min():+.1%} to {gain.max():+.1%})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
