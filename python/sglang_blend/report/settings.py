"""Where the time of a job went, and with which settings it ran."""

from __future__ import annotations

from typing import Any

from sglang_blend.report import units
from sglang_blend.report.metrics import Metrics
from sglang_blend.report.page import (
    Bar,
    Block,
    Cell,
    Section,
    Table,
)
from sglang_blend.report.records import JobRecord

_OF_THE_JOB = "--"
_PHASES = {
    "read": "read and check the input",
    "prepare": "tokenize and sort",
    "start_engine": "wait for the engine",
    "plan": "plan (inside the run)",
    "generate": "run",
}


def phases_section(metrics: Metrics) -> Section:
    """Where the wall-clock time went."""
    if metrics.job.simulated:
        return Section(title="Phases")
    totals = dict.fromkeys(_PHASES, 0.0)
    for run in metrics.job.runs:
        for name, seconds in run.end.get("seconds", {}).items():
            if name in totals:
                totals[name] += seconds
    most = max(totals.values())
    if not most:
        return Section(title="Phases")
    rows: list[tuple[Cell, ...]] = [
        (_PHASES[name], Bar(units.seconds(seconds), seconds / most)) for name, seconds in totals.items()
    ]
    return Section(
        title="Phases",
        lead="Wall-clock time of this job's process. The model loads while requests are tokenized.",
        blocks=[Table(head=("phase", "time"), align="ll", rows=rows)],
    )


def configuration_section(job: JobRecord) -> Section:
    """What was run, on what, with which settings."""
    found = configuration(job)
    first = [(name, value) for name, value in found.items() if not name.startswith(_OF_THE_JOB)]
    rest = [(name, value) for name, value in found.items() if name.startswith(_OF_THE_JOB)]
    blocks: list[Block] = []
    if first:
        blocks.append(Table(head=("setting", "value"), align="ll", rows=list(first)))
    if rest:
        words = "Options of the job"
        blocks.append(Table(head=("option", "value"), align="ll", rows=list(rest), summary=words))
    return Section(title="Configuration", blocks=blocks)


def configuration(job: JobRecord) -> dict[str, str]:
    """Settings by name, as text."""
    found: dict[str, Any] = {}
    plan = job.plan
    if plan.get("order"):
        found["order"] = plan["order"]
        found["why this order"] = plan.get("reason")
        found["seed"] = plan.get("seed")
    for engine in job.engines[:1]:
        known = {
            k: v for k, v in engine.header.items() if k not in ("columns", "started_at", "end_s", "hardware")
        }
        found |= {name.replace("_", " "): value for name, value in known.items()}
        machine = engine.header.get("hardware")
        if isinstance(machine, dict):
            rates = machine["effective_flop_per_s"] / 1e12, machine["effective_bytes_per_s"] / 1e12
            source = machine["effective_source"]
            found["modelled as"] = (
                f"{machine['name']}: {rates[0]:.4g} TFLOP/s, {rates[1]:.4g} TB/s ({source})"
            )
    for run in job.runs[-1:]:
        if run.end.get("engine_argv"):
            found["engine flags"] = " ".join(run.end["engine_argv"])
    options = {k: v for k, v in job.summary.get("config", {}).items() if not isinstance(v, dict)}
    if job.simulated:
        found |= options
    else:
        found |= {f"{_OF_THE_JOB}{name.replace('_', '-')}": value for name, value in options.items()}
    return {name: _setting(value) for name, value in found.items() if value not in (None, "")}


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
