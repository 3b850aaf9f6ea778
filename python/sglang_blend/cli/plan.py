"""`sglang-blend plan`: what a batch file holds, what an order would keep and take, without running it.

sglang-blend plan --file batch.jsonl --model-shape llama-3-8b --hardware H200
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import orjson

from sglang_blend.cli.batch_prompts import (
    DEFAULT_MAX_TOKENS,
    ByteTokenizer,
    ModelTokenizer,
    Tokenizer,
    read_batch_prompts,
)
from sglang_blend.cli.plan_output import PlannedJob, print_text, to_json, write_html
from sglang_blend.cli.predictions import Predictions
from sglang_blend.config import FILE_HELP, Reading
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import AUTO, make_schedule, make_workload, order_names
from sglang_blend.core.workload import Workload
from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.break_even import break_even_of
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.errors import ConfigError
from sglang_blend.extras import require_extra
from sglang_blend.location import location
from sglang_blend.simulate.engine_config import MODES, EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob

_DEFAULTS = PlanConfig()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "plan",
        help="show what a batch file holds and which order would run it best",
        description="Plan a batch file without running it: its workload, sharing and densities, and the"
        " simulated makespan of every order.",
        epilog="example: sglang-blend plan --file batch.jsonl --model-shape llama-3-8b --hardware H200",
    )
    add = parser.add_argument
    add("--file", type=location, required=True, help=FILE_HELP)
    add("--model-path", help="model folder: its config.json and its tokenizer")
    add(
        "--model-shape", help="a known model shape instead; tokens are then approximate (default: llama-3-8b)"
    )
    add(
        "--hardware",
        default="H200",
        help="name in the hardware table, or a JSON record (default: %(default)s)",
    )
    add("--tp-size", type=int, default=1, help="tensor parallel size (default: %(default)s)")
    add("--max-total-tokens", type=int, help="KV pool, tokens (default: what the model leaves free)")
    add("--order", default=AUTO, help=f"one of {', '.join(order_names())} (default: %(default)s)")
    add("--mode", default="default", help=f"engine to simulate: {', '.join(MODES)} (default: %(default)s)")
    add("--page-size", type=int, default=_DEFAULTS.page_size, help="KV page, tokens (default: %(default)s)")
    add(
        "--shared-reads",
        action="store_true",
        help="decode reads KV that requests share once a step (the engine's --attention-backend blend)",
    )
    add("--seed", type=int, default=_DEFAULTS.seed, help="of every random choice (default: %(default)s)")
    add(
        "--default-max-tokens",
        type=int,
        default=DEFAULT_MAX_TOKENS,
        help="cap for lines that name none (default: %(default)s)",
    )
    add("--json", action="store_true", help="print one JSON object instead of text")
    add("--html", type=Path, help="write the plan as a report to this file")
    add(
        "--price-per-hour",
        type=float,
        help="price of one accelerator, for the cost estimate in text and report",
    )
    Reading.add_cli_args(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, plan, simulate, print; returns the exit code.

    Raises:
        BlendError: a value that is not allowed, or a file that cannot be used.
    """
    config = PlanConfig(order=args.order, seed=args.seed, page_size=args.page_size)
    if args.price_per_hour is not None and not 0 <= args.price_per_hour < 1e9:
        raise ConfigError(f"--price-per-hour is {args.price_per_hour}; give 0 or more, in any currency.")
    if args.html is not None:
        require_extra("report", "--html")
    if args.default_max_tokens < 1:
        raise ConfigError(f"--default-max-tokens is {args.default_max_tokens}, allowed is 1 or more.")
    device = hardware(args.hardware)
    cost = RooflineCost(
        shape=model_shape(args.model_path or args.model_shape or "llama-3-8b"),
        hardware=device,
        tp_size=args.tp_size,
        pool_tokens=args.max_total_tokens,
        shared_reads=break_even_of(device.name) if args.shared_reads else None,
    )
    engine = EngineConfig(mode=args.mode).on(cost.hardware)
    tokenizer: Tokenizer = ModelTokenizer(args.model_path) if args.model_path else ByteTokenizer()
    batch = read_batch_prompts(args.file, tokenizer, args.default_max_tokens, Reading.from_cli_args(args))
    begin = time.perf_counter()
    workload = make_workload(batch.table, cost, config)
    predictions = Predictions(workload, cost, engine, args.seed)
    predicts = {"predict": predictions.makespan_s, "predict_drawn": predictions.predict_drawn}
    schedule = make_schedule(batch.table, cost, config, workload=workload, **predicts)
    plan_s = time.perf_counter() - begin
    schedules = {
        name: make_schedule(batch.table, cost, replace(config, order=name), workload=workload, **predicts)
        for name in order_names()
        if name != AUTO
    }
    planned = PlannedJob(
        args=args,
        cost=cost,
        tokenizer=tokenizer,
        batch=batch,
        workload=workload,
        schedule=schedule,
        schedules=schedules,
        predictions={name: predictions.predict(each) for name, each in schedules.items()},
        optimum_s=_optimum_s(workload, cost),
        num_simulated=predictions.num_simulated,
        plan_s=plan_s,
    )
    if args.html is not None:
        write_html(planned)
    if args.json:
        print(orjson.dumps(to_json(planned), option=orjson.OPT_INDENT_2).decode())
    else:
        print_text(planned)
    return 0


def _optimum_s(workload: Workload, cost: RooflineCost) -> float:
    """max(compute, KV reads) of the whole job, seconds."""
    output_len = workload.lengths.est_output_len
    job = SimulatedJob.from_table(workload.table, output_len, tree=workload.tree)
    return bounds_of(job.tree, output_len, cost, 0.0).optimum_s
