"""`sglang-blend simulate`: every order in every modelled engine, for a trace, a batch file or a made job.

sglang-blend simulate --paper-trace 1 --hardware A100 --model-shape llama-3.1-8b
sglang-blend simulate --trace lengths.csv --limit 5000 --modes default,mixed --json
sglang-blend simulate --file batch.jsonl --hardware H200 --policies fcfs,lpm,dual-scan --modes default
sglang-blend simulate --paper-trace 1 --num-requests 20000 --replicas 1,2,4
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sglang_blend.bench.matrix import UNPLANNED, Contender
from sglang_blend.cli.predictions import Predictions
from sglang_blend.cli.report import write_page
from sglang_blend.cli.simulate_job import add_job_options, known_lengths, read_job
from sglang_blend.cli.simulate_replicas import REPLICA_COLUMNS, replica_counts, replica_records
from sglang_blend.console import counted
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.orders import AUTO, make_schedule, make_workload, order_names
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.core.workload import Workload
from sglang_blend.cost.break_even import break_even_of
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.measured import read_mlp_profile
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.errors import ConfigError
from sglang_blend.extras import require_extra
from sglang_blend.job.plan_facts import workload_facts
from sglang_blend.report.records import JobRecord, simulated_job
from sglang_blend.simulate.engine_config import MODES, EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation
from sglang_blend.simulate.simulator import simulate_schedule

_COLUMNS = (
    "order",
    "mode",
    "makespan_s",
    "optimum_fraction",
    "practical_fraction",
    "sharing_planned",
    "sharing_kept",
    "retractions",
    "tail_s",
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the subcommand and its options."""
    parser = subparsers.add_parser(
        "simulate",
        help="simulate every order in every modelled engine, without a GPU",
        description="Runs orders through a model of the serving engine. Results are simulated, not measured.",
        epilog="Example: sglang-blend simulate --paper-trace 1 --hardware A100 --num-requests 5000",
    )
    add_job_options(parser)
    parser.add_argument("--model-path", help="model folder with config.json")
    parser.add_argument(
        "--model-shape", default="llama-3.1-8b", help="a known shape instead (default llama-3.1-8b)"
    )
    parser.add_argument(
        "--hardware", default="A100", help="name in the hardware table, or a .json record (default A100)"
    )
    parser.add_argument("--tp-size", type=int, default=1, help="tensor parallel degree (default 1)")
    parser.add_argument(
        "--kv-cache-dtype", default="auto", help="auto, fp8, bf16, fp16 or fp32 (default auto)"
    )
    parser.add_argument("--max-total-tokens", type=int, help="KV pool in tokens (default: what fits)")
    parser.add_argument(
        "--shared-reads",
        action="store_true",
        help="decode reads KV that requests share once a step (the engine's --attention-backend blend)",
    )
    parser.add_argument(
        "--mlp-profile",
        type=Path,
        help="measured kernel times by token count (CSV), used in place of the roofline",
    )
    parser.add_argument("--orders", default="", help="comma-separated (default: all but auto)")
    parser.add_argument(
        "--policies",
        help="instead of --orders: schedule policies as `sglang-blend bench` names them (fcfs, lpm, "
        "dfs-weight, dual-scan, stationary, POLICY@ORDER), each with its own admission and eviction",
    )
    parser.add_argument("--modes", default="", help=f"comma-separated (default: {','.join(MODES)})")
    parser.add_argument(
        "--chunk-tokens", type=int, help="token budget of a step with prefill (default: by mode)"
    )
    parser.add_argument(
        "--paced",
        action="store_true",
        help="overlap and mixed: take the token budget from the remaining work (n*)",
    )
    parser.add_argument(
        "--admission", default="peak", help="peak, ratio (stock SGLang) or reserve (default peak)"
    )
    parser.add_argument("--eviction", default="lru", help="lru (stock SGLang) or demand (default lru)")
    parser.add_argument(
        "--lengths",
        choices=("sampled", "known"),
        default="sampled",
        help="what orders know of output lengths: a 1%% sample, or all (default sampled)",
    )
    parser.add_argument(
        "--replicas",
        help="comma-separated: share the job between so many engines, with work stealing (default: 1)",
    )
    parser.add_argument("--page-size", type=int, default=1, help="tokens of a KV page (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default 0)")
    parser.add_argument(
        "--html", type=Path, help="write a report of the run to this file; of two runs, a comparison"
    )
    parser.add_argument("--json", action="store_true", help="one JSON record a line, for each order and mode")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulates and prints; returns the exit code.

    Raises:
        BlendError: a value that is not allowed, or an input that cannot be used.
    """
    cost = _cost(args)
    compared = _compared(args)
    modes = _choices("mode", args.modes, MODES) or list(MODES)
    counts = None if args.replicas is None else replica_counts(args.replicas)
    if args.html is not None:
        require_extra("report", "--html")
    if args.html is not None and counts is not None:
        raise ConfigError("--html shows one engine; leave out --replicas, or --html.")
    if args.html is not None and len(compared) * len(modes) > 2:
        raise ConfigError(
            f"--html shows one or two runs, these are {len(compared) * len(modes)}; name --orders or "
            "--policies, and --modes."
        )
    pages: list[JobRecord] = []
    table, output_len, title = read_job(args, cost)
    config = PlanConfig(seed=args.seed, page_size=args.page_size)
    tree = build_prefix_tree(table, page_size=args.page_size)
    lengths = known_lengths(args.lengths, table, output_len, tree, config)
    workload = make_workload(table, cost, config, tree=tree, lengths=lengths)
    job = SimulatedJob.from_table(table, output_len, tree=tree)
    columns = _COLUMNS if counts is None else REPLICA_COLUMNS
    if not args.json:
        print(_heading(title, table, cost, job, args, columns))
    predictions: dict[EngineConfig, Predictions] = {}
    notes: list[str] = []
    for name, order, policy in compared:
        for mode in modes:
            engine = EngineConfig(
                mode=mode,
                chunk_tokens=args.chunk_tokens,
                paced=args.paced,
                admission=args.admission,
                eviction=args.eviction,
            ).on(cost.hardware)
            if policy:
                engine = engine.under(policy)
            chosen = replace(config, order=order)
            if counts is not None:
                records = replica_records(
                    counts, engine, chosen, table=table, job=job, cost=cost, tree=tree, lengths=lengths
                )
                for record in records:
                    _print(record, args, columns)
                continue
            if engine not in predictions:
                predictions[engine] = Predictions(workload, cost, engine, args.seed)
            schedule = make_schedule(
                table,
                cost,
                chosen,
                predict=predictions[engine].makespan_s,
                predict_drawn=predictions[engine].predict_drawn,
                workload=workload,
            )
            if schedule.reason:
                notes.append(f"{name} in mode {mode}: {schedule.reason}")
            result = simulate_schedule(job, schedule, cost, engine, record_timeline=args.html is not None)
            if args.html is not None:
                pages.append(_job_record(args, title, engine, result, schedule, workload, output_len))
            _print(_record(name, mode, schedule, result, args), args, columns)
    if not args.json:
        for note in notes:
            print(note)
    if args.html is not None:
        from sglang_blend.report.compare import compare_page
        from sglang_blend.report.pages import job_page

        write_page(job_page(*pages) if len(pages) == 1 else compare_page(*pages), args.html)
    return 0


def _job_record(
    args: argparse.Namespace,
    title: str,
    engine: EngineConfig,
    result: Simulation,
    schedule: Schedule,
    workload: Workload,
    output_len: IntArray,
) -> JobRecord:
    """A simulated run as the report takes it."""
    cost = workload.cost
    assert isinstance(cost, RooflineCost), "made by _cost"
    config = {
        "model": cost.shape.name,
        "hardware": f"{args.tp_size} x {cost.hardware.name}",
        "engine mode": engine.mode,
        "admission": engine.admission,
        "eviction": engine.eviction,
        "output lengths": args.lengths,
        "page size": args.page_size,
    }
    return simulated_job(
        f"{title}, {schedule.order} in mode {engine.mode}",
        result,
        workload_facts(workload, schedule, lambda row: ""),
        output_len=output_len,
        est_output_len=schedule.est_output_len,
        config=config,
    )


def _cost(args: argparse.Namespace) -> RooflineCost:
    curve = None if args.mlp_profile is None else read_mlp_profile(args.mlp_profile, tp_size=args.tp_size)
    device = hardware(args.hardware)
    return RooflineCost(
        shape=model_shape(args.model_path or args.model_shape).with_kv_dtype(args.kv_cache_dtype),
        hardware=device,
        tp_size=args.tp_size,
        gemm_curve=curve,
        pool_tokens=args.max_total_tokens,
        shared_reads=break_even_of(device.name) if args.shared_reads else None,
    )


class _Compared(NamedTuple):
    """An order, and the policy that runs it; without one the engine is as the options say."""

    name: str
    order: str
    policy: str = ""


def _compared(args: argparse.Namespace) -> list[_Compared]:
    """What is run in every mode."""
    if args.policies is None:
        orders = _choices("order", args.orders, order_names())
        return [_Compared(name, name) for name in orders or order_names() if orders or name != AUTO]
    if args.orders:
        raise ConfigError("--policies brings its orders; leave out --orders.")
    contenders = [Contender.parse(text) for text in args.policies.split(",")]
    for contender in contenders:
        EngineConfig().under(contender.policy)
        if contender.order == UNPLANNED:
            raise ConfigError(f"--policies {contender.name!r} is not simulated; leave @{UNPLANNED} out.")
    return [_Compared(contender.name, contender.order, contender.policy) for contender in contenders]


def _choices(what: str, text: str, allowed: tuple[str, ...]) -> list[Any]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise ConfigError(f"{what} {name!r} is unknown; allowed are {', '.join(allowed)}.")
    return names


def _record(
    order: str, mode: str, schedule: Schedule, result: Simulation, args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "order": order,
        "mode": mode,
        "makespan_s": result.makespan_s,
        "optimum_s": result.bounds.optimum_s,
        "optimum_fraction": result.optimum_fraction,
        "practical_optimum_s": result.bounds.practical_s,
        "practical_fraction": result.practical_fraction,
        "sharing_planned": schedule.sharing_kept,
        "sharing_kept": result.sharing_kept,
        "retractions": result.retractions,
        "num_steps": result.num_steps,
        "tail_s": result.tail_s,
        "mean_kv_occupancy": result.mean_kv_occupancy,
        "seed": args.seed,
        "ran": schedule.order,
        "reason": schedule.reason,
        "simulated": True,
    }


def _heading(
    title: str,
    table: RequestTable,
    cost: RooflineCost,
    job: SimulatedJob,
    args: argparse.Namespace,
    columns: tuple[str, ...],
) -> str:
    tp = f"{args.tp_size} x " if args.tp_size > 1 else ""
    rules = f"admission {args.admission}, eviction {args.eviction}"
    if args.policies is not None:
        rules = "admission and eviction by policy"
    return (
        f"simulated: {title}\n{counted(table.n, 'request')}, {table.num_prompt_tokens} prompt tokens "
        f"({job.tree.unique_tokens} unique), "
        f"{int(job.output_len.sum())} output tokens; {cost.shape.name} on {tp}{cost.hardware.name}, "
        f"KV pool {cost.kv_pool_tokens} "
        f"tokens, {rules}, lengths {args.lengths}, seed {args.seed}\n"
        + "  ".join(name.rjust(_width(name)) for name in columns)
    )


def _print(record: dict[str, Any], args: argparse.Namespace, columns: tuple[str, ...]) -> None:
    """At once: the next one may take minutes."""
    print(orjson.dumps(record).decode() if args.json else _row(record, columns), flush=True)


def _row(record: dict[str, Any], columns: tuple[str, ...]) -> str:
    cells = []
    for name in columns:
        value = record[name]
        text = (
            value
            if isinstance(value, str)
            else str(value)
            if isinstance(value, int)
            else f"{value:.{1 if name.endswith('_s') else 3}f}"
        )
        cells.append(text.rjust(_width(name)))
    return "  ".join(cells)


def _width(name: str) -> int:
    return max(len(name), 13 if name == "order" else 8)
