"""`sglang-blend plan`: what a batch file holds, what an order would keep and take, without running it.

sglang-blend plan --file batch.jsonl --model-shape llama-3-8b --hardware H200
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from sglang_blend.attention.break_even import break_even_of
from sglang_blend.cli.batch_prompts import (
    DEFAULT_MAX_TOKENS,
    BatchPrompts,
    ByteTokenizer,
    ModelTokenizer,
    Tokenizer,
    read_batch_prompts,
    texts_of,
)
from sglang_blend.cli.report import write_page
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import AUTO, make_schedule, make_workload, order_names
from sglang_blend.core.request import Schedule
from sglang_blend.core.workload import Workload
from sglang_blend.errors import ConfigError
from sglang_blend.job.plan_facts import workload_facts
from sglang_blend.perf.bounds import bounds_of
from sglang_blend.perf.engine_config import MODES, EngineConfig
from sglang_blend.perf.hardware import hardware
from sglang_blend.perf.predict import MakespanPredictor
from sglang_blend.perf.roofline import RooflineCost
from sglang_blend.perf.shape_registry import model_shape
from sglang_blend.perf.simulated_job import SimulatedJob

_DEFAULTS = PlanConfig()
_HISTOGRAM_WIDTH = 40


class _Prediction(NamedTuple):
    makespan_s: float
    optimum_fraction: float


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
    add("--file", type=Path, required=True, help="batch file: OpenAI Batch JSON Lines, .jsonl or .jsonl.gz")
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
    add("--save", type=Path, help="write the schedule to this file")
    add("--html", type=Path, help="write the plan as a report to this file")
    add(
        "--price-per-hour",
        type=float,
        help="price of one accelerator, for the cost estimate in text and report",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, plan, simulate, print; returns the exit code.

    Raises:
        BlendError: a value that is not allowed, or a file that cannot be used.
    """
    config = PlanConfig(order=args.order, seed=args.seed, page_size=args.page_size)
    if args.price_per_hour is not None and not 0 <= args.price_per_hour < 1e9:
        raise ConfigError(f"--price-per-hour is {args.price_per_hour}; give 0 or more, in any currency.")
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
    batch = read_batch_prompts(args.file, tokenizer, args.default_max_tokens)
    begin = time.perf_counter()
    workload = make_workload(batch.table, cost, config)
    predictor = _Predictions(workload, cost, engine, args.seed)
    schedule = make_schedule(batch.table, cost, config, predict=predictor.makespan_s, workload=workload)
    plan_s = time.perf_counter() - begin
    schedules = {
        name: make_schedule(batch.table, cost, replace(config, order=name), workload=workload)
        for name in order_names()
        if name != AUTO
    }
    planned = _Planned(
        args=args,
        cost=cost,
        tokenizer=tokenizer,
        batch=batch,
        workload=workload,
        schedule=schedule,
        schedules=schedules,
        predictions={name: predictor.predict(each) for name, each in schedules.items()},
        predictor=predictor,
        plan_s=plan_s,
    )
    if args.save is not None:
        schedule.save(args.save)
    if args.html is not None:
        _write_html(planned)
    if args.json:
        report = _report(planned) | _context(planned)
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        _print_text(planned)
    return 0


class _Predictions:
    """Simulated makespans of one job's schedules, each order once."""

    def __init__(self, workload: Workload, cost: RooflineCost, engine: EngineConfig, seed: int) -> None:
        tree, output_len = workload.tree, workload.lengths.est_output_len
        self._predict = MakespanPredictor(workload.table, cost, engine, tree=tree, seed=seed)
        self._known: dict[str, float] = {}
        job = SimulatedJob.from_table(workload.table, output_len, tree=tree)
        #: max(compute, KV reads) of the whole job, seconds.
        self.optimum_s = bounds_of(job.tree, output_len, cost, 0.0).optimum_s
        self.num_simulated = tree.n

    def makespan_s(self, schedule: Schedule) -> float:
        """Predicted seconds; outputs are taken to be as long as expected."""
        if schedule.order not in self._known:
            self._known[schedule.order] = self._predict(schedule)
            self.num_simulated = self._predict.sample_size(schedule) or schedule.n
        return self._known[schedule.order]

    def predict(self, schedule: Schedule) -> _Prediction:
        """Makespan and its share of the optimum."""
        seconds = self.makespan_s(schedule)
        return _Prediction(seconds, self.optimum_s / seconds if seconds else 1.0)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """Everything there is to say: what was asked, the job, and what each order is expected to take.

    Attributes:
        schedule: the one that was asked for; `schedules` and `predictions` are of every order, by name.
        plan_s: seconds that planning took, simulation for `auto` included.
    """

    args: argparse.Namespace
    cost: RooflineCost
    tokenizer: Tokenizer
    batch: BatchPrompts
    workload: Workload
    schedule: Schedule
    schedules: dict[str, Schedule]
    predictions: dict[str, _Prediction]
    predictor: _Predictions
    plan_s: float


def _report(planned: _Planned) -> dict[str, Any]:
    schedule, schedules, predictions = planned.schedule, planned.schedules, planned.predictions
    tree = planned.workload.tree
    return {
        "requests": tree.n,
        "prompt_tokens": tree.num_prompt_tokens,
        "unique_prompt_tokens": tree.num_unique_tokens,
        "sharing_possible": tree.sharing_possible,
        "root_density": schedule.root_density,
        "order": schedule.order,
        "orders": {
            name: {
                "sharing_kept": schedules[name].sharing_kept,
                "predicted_makespan_s": predictions[name].makespan_s,
                "optimum_fraction": predictions[name].optimum_fraction,
            }
            for name in schedules
        },
        "plan_seconds": planned.plan_s,
        "peak_rss_bytes": _peak_rss_bytes(),
    }


def _context(planned: _Planned) -> dict[str, Any]:
    args, cost, tokenizer, batch = planned.args, planned.cost, planned.tokenizer, planned.batch
    return {
        "reason": planned.schedule.reason,
        "simulated": True,
        "simulated_requests": planned.predictor.num_simulated,
        "optimum_s": planned.predictor.optimum_s,
        "mode": args.mode,
        "model": cost.shape.name,
        "hardware": cost.hardware.name,
        "tp_size": args.tp_size,
        "kv_pool_tokens": cost.kv_pool_tokens,
        "page_size": args.page_size,
        "seed": args.seed,
        "tokenizer": tokenizer.name,
        "tokens_approximate": tokenizer.approximate,
        "skipped_lines": batch.num_skipped,
        "first_skipped": batch.first_skipped,
        "requests_without_max_tokens": batch.num_without_cap,
    }


def _print_text(planned: _Planned) -> None:
    args, cost, batch, workload = planned.args, planned.cost, planned.batch, planned.workload
    schedule, predictions, predictor = planned.schedule, planned.predictions, planned.predictor
    tree = workload.tree
    print(f"file          {args.file}")
    print(f"requests      {tree.n:,}")
    if batch.num_skipped:
        print(
            f"left out      {batch.num_skipped:,} lines that cannot be planned; first: {batch.first_skipped}"
        )
    print(f"tokens        {planned.tokenizer.name}")
    print(f"prompt        {tree.num_prompt_tokens:,} tokens, {tree.num_unique_tokens:,} of them unique")
    print(f"sharing       {tree.sharing_possible:.1%} of the prompt tokens can come from the prefix cache")
    print(
        f"output        {int(workload.lengths.est_output_len.sum()):,} tokens expected, at most "
        f"{int(batch.table.max_new_tokens.sum()):,}"
    )
    if batch.num_without_cap:
        print(
            f"              {batch.num_without_cap:,} name no cap and are taken as {args.default_max_tokens}"
        )
    machine = f"{cost.shape.name} on {args.tp_size} x {cost.hardware.name}"
    print(f"machine       {machine}, KV pool {cost.kv_pool_tokens:,} tokens")
    print(f"density       {workload.root_density:.3g} (compute over memory time, with sharing)")
    for line in density_histogram(workload):
        print(f"              {line}")
    num = predictor.num_simulated
    sampled = f", extended from a sample of {num:,} requests" if num < tree.n else ""
    print(f"\nsimulated     engine mode {args.mode}{sampled}; outputs as long as expected")
    print(f"{'order':14}{'sharing kept':>13}{'makespan':>12}{'of optimum':>12}")
    for name, prediction in predictions.items():
        kept = planned.schedules[name].sharing_kept
        print(f"{name:14}{kept:>13.1%}{prediction.makespan_s:>10.1f} s{prediction.optimum_fraction:>12.1%}")
    print(f"{'optimum':14}{'':13}{predictor.optimum_s:>10.1f} s   max(compute, KV reads)")
    print(f"\norder         {schedule.reason or schedule.order}")
    taken = predictions.get(schedule.order)
    if args.price_per_hour is not None and taken is not None:
        cost_estimate = args.price_per_hour * args.tp_size * taken.makespan_s / 3600
        print(f"cost          {cost_estimate:,.4f} at {args.price_per_hour:,.2f} an hour and accelerator")
    if args.save is not None:
        print(f"saved         {args.save}", file=sys.stderr)


def _write_html(planned: _Planned) -> None:
    from sglang_blend.report.plan_page import OrderForecast, PlanForecast, plan_page

    args, cost, tokenizer, batch = planned.args, planned.cost, planned.tokenizer, planned.batch
    workload, predictor = planned.workload, planned.predictor
    notes = []
    if tokenizer.approximate:
        notes.append(f"Tokens are counted as {tokenizer.name}; --model-path counts them exactly.")
    if batch.num_skipped:
        notes.append(
            f"{batch.num_skipped:,} lines cannot be planned and are left out; first: {batch.first_skipped}"
        )
    if batch.num_without_cap:
        cap = args.default_max_tokens
        notes.append(f"{batch.num_without_cap:,} requests name no max_tokens and are taken as {cap}.")
    if predictor.num_simulated < workload.tree.n:
        notes.append(
            f"Makespans are extended from a simulated sample of {predictor.num_simulated:,} requests."
        )
    with texts_of(args.file, batch) as text_of_row:
        facts = workload_facts(workload, planned.schedule, text_of_row)
    plan = PlanForecast(
        name=str(args.file),
        facts=facts,
        orders=[
            OrderForecast(
                order=name,
                sharing_kept=planned.schedules[name].sharing_kept,
                makespan_s=prediction.makespan_s,
                optimum_ratio=prediction.optimum_fraction,
            )
            for name, prediction in planned.predictions.items()
        ],
        optimum_s=predictor.optimum_s,
        accelerators=args.tp_size,
        price_per_hour=args.price_per_hour,
        settings={
            "model": cost.shape.name,
            "hardware": f"{args.tp_size} x {cost.hardware.name}",
            "KV pool": f"{cost.kv_pool_tokens:,} tokens",
            "simulated engine": f"mode {args.mode}",
            "page size": str(args.page_size),
            "tokens": tokenizer.name,
            "seed": str(args.seed),
            "price per hour": "" if args.price_per_hour is None else f"{args.price_per_hour:,.2f}",
        },
        notes=tuple(notes),
    )
    write_page(plan_page(plan), args.html)


def density_histogram(workload: Workload) -> list[str]:
    """Lines of text: requests by density, a factor of two a line; compute-intensive first."""
    if workload.tree.n == 0:
        return []
    with np.errstate(divide="ignore"):
        exponent = np.log2(workload.leaf_density)
    classes = np.clip(np.floor(np.nan_to_num(exponent, posinf=1e3, neginf=-1e3)), -8, 9).astype(np.int64)
    counts = np.bincount(classes + 8, minlength=18)
    lines = []
    for index in range(int(np.flatnonzero(counts)[-1]), int(np.flatnonzero(counts)[0]) - 1, -1):
        label = f"{2.0 ** (index - 8):>8.3g}+" if index else "       0+"
        bar = "#" * round(_HISTOGRAM_WIDTH * counts[index] / counts.max())
        lines.append(f"{label} {bar:<{_HISTOGRAM_WIDTH}} {counts[index]:,}")
    return lines


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
