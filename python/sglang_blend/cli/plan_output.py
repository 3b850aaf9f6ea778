"""What `sglang-blend plan` has to say, as text, as JSON and as a report."""

from __future__ import annotations

import argparse
import resource
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from sglang_blend.cli.batch_prompts import BatchPrompts, Tokenizer, texts_of
from sglang_blend.cli.report import write_page
from sglang_blend.config import Reading
from sglang_blend.console import counted
from sglang_blend.core.request import Schedule
from sglang_blend.core.workload import Workload
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.job.plan_facts import workload_facts
from sglang_blend.simulate.predict import Predicted

_HISTOGRAM_WIDTH = 40


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """Everything there is to say: what was asked, the job, and what each order is expected to take.

    Attributes:
        schedule: the one that was asked for; `schedules` and `predictions` are of every order, by name.
        optimum_s: max(compute, KV reads) of the whole job, seconds.
        num_simulated: requests of the job that the predictions were made with.
        plan_s: seconds that planning took, simulation for `auto` included.
    """

    args: argparse.Namespace
    cost: RooflineCost
    tokenizer: Tokenizer
    batch: BatchPrompts
    workload: Workload
    schedule: Schedule
    schedules: dict[str, Schedule]
    predictions: dict[str, Predicted]
    optimum_s: float
    num_simulated: int
    plan_s: float

    def optimum_fraction(self, order: str) -> float:
        """max(compute, KV reads) over what an order is expected to take."""
        seconds = self.predictions[order].makespan_s
        return self.optimum_s / seconds if seconds else 1.0


def to_json(planned: PlannedJob) -> dict[str, Any]:
    """One record, for programs."""
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
                "optimum_fraction": planned.optimum_fraction(name),
                "sharing_kept_at_run_time": predictions[name].sharing_kept,
                "reason": schedules[name].reason,
            }
            for name in schedules
        },
        "plan_seconds": planned.plan_s,
        "peak_rss_bytes": _peak_rss_bytes(),
        **_context(planned),
    }


def _context(planned: PlannedJob) -> dict[str, Any]:
    args, cost, tokenizer, batch = planned.args, planned.cost, planned.tokenizer, planned.batch
    return {
        "reason": planned.schedule.reason,
        "simulated": True,
        "simulated_requests": planned.num_simulated,
        "optimum_s": planned.optimum_s,
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


def print_text(planned: PlannedJob) -> None:
    """For people, on standard output."""
    args, cost, batch, workload = planned.args, planned.cost, planned.batch, planned.workload
    schedule, predictions = planned.schedule, planned.predictions
    tree = workload.tree
    print(f"file          {args.file}")
    print(f"requests      {tree.n:,}")
    if batch.num_skipped:
        print(f"left out      {_left_out(batch)}")
    print(f"tokens        {planned.tokenizer.name}")
    print(f"prompt        {tree.num_prompt_tokens:,} tokens, {tree.num_unique_tokens:,} of them unique")
    print(f"sharing       {tree.sharing_possible:.1%} of the prompt tokens can come from the prefix cache")
    print(
        f"output        {int(workload.lengths.est_output_len.sum()):,} tokens expected, at most "
        f"{int(batch.table.max_new_tokens.sum()):,}"
    )
    if batch.num_without_cap:
        print(f"              {batch.num_without_cap:,} without a cap, taken as {args.default_max_tokens}")
    machine = f"{cost.shape.name} on {args.tp_size} x {cost.hardware.name}"
    print(f"machine       {machine}, KV pool {cost.kv_pool_tokens:,} tokens")
    print(f"density       {workload.root_density:.3g} (compute over memory time, with sharing)")
    for line in density_histogram(workload):
        print(f"              {line}")
    num = planned.num_simulated
    sampled = f", extended from a sample of {num:,} requests" if num < tree.n else ""
    print(f"\nsimulated     engine mode {args.mode}{sampled}; outputs as long as expected")
    print(f"{'order':14}{'sharing planned':>16}{'at run time':>12}{'makespan':>12}{'of optimum':>12}")
    for name, prediction in predictions.items():
        kept = f"{planned.schedules[name].sharing_kept:>16.1%}{prediction.sharing_kept:>12.1%}"
        print(f"{name:14}{kept}{prediction.makespan_s:>10.1f} s{planned.optimum_fraction(name):>12.1%}")
    print(f"{'optimum':14}{'':28}{planned.optimum_s:>10.1f} s   max(compute, KV reads)")
    for name, each in planned.schedules.items():
        if each.reason:
            print(f"{name:14}{each.reason}")
    print(f"\norder         {schedule.reason or schedule.order}")
    taken = predictions.get(schedule.order)
    if args.price_per_hour is not None and taken is not None:
        cost_estimate = args.price_per_hour * args.tp_size * taken.makespan_s / 3600
        print(f"cost          {cost_estimate:,.4f} at {args.price_per_hour:,.2f} an hour and accelerator")


def _left_out(batch: BatchPrompts) -> str:
    return f"{counted(batch.num_skipped, 'line')} that cannot be planned; first: {batch.first_skipped}"


def write_html(planned: PlannedJob) -> None:
    """The plan as a report, to the file that `--html` names."""
    from sglang_blend.report.plan_page import OrderForecast, PlanForecast, plan_page

    args, cost, tokenizer, batch = planned.args, planned.cost, planned.tokenizer, planned.batch
    workload = planned.workload
    notes = []
    if tokenizer.approximate:
        notes.append(f"Tokens are counted as {tokenizer.name}; --model-path counts them exactly.")
    if batch.num_skipped:
        notes.append(f"Left out: {_left_out(batch)}")
    if batch.num_without_cap:
        num_without = counted(batch.num_without_cap, "request")
        notes.append(f"{num_without} without max_tokens, taken as {args.default_max_tokens}.")
    if planned.num_simulated < workload.tree.n:
        notes.append(f"Makespans are extended from a simulated sample of {planned.num_simulated:,} requests.")
    with texts_of(args.file, batch, Reading.from_cli_args(args)) as text_of_row:
        facts = workload_facts(workload, planned.schedule, text_of_row)
    plan = PlanForecast(
        name=str(args.file),
        facts=facts,
        orders=[
            OrderForecast(
                order=name,
                sharing_kept=planned.schedules[name].sharing_kept,
                sharing_at_run_time=prediction.sharing_kept,
                makespan_s=prediction.makespan_s,
                optimum_ratio=planned.optimum_fraction(name),
            )
            for name, prediction in planned.predictions.items()
        ],
        optimum_s=planned.optimum_s,
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
