"""The page of a job that ran, or of one that was simulated."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from sglang_blend.report import units
from sglang_blend.report.metrics import Metrics
from sglang_blend.report.over_time import over_time_section
from sglang_blend.report.page import (
    Card,
    Cards,
    Page,
    Section,
)
from sglang_blend.report.records import JobRecord
from sglang_blend.report.replicas import replicas_section
from sglang_blend.report.requests import failures_section, latency_section, lengths_section
from sglang_blend.report.settings import configuration_section, phases_section
from sglang_blend.report.timeline import make_timeline
from sglang_blend.report.workload import density_section, prefix_section


def job_page(job: JobRecord) -> Page:
    """Everything that is known of one job."""
    metrics = Metrics(job, make_timeline(job.engines))
    sections = [
        Section(title="Summary", blocks=[headline(metrics)]),
        replicas_section(job),
        over_time_section(metrics),
        lengths_section(metrics),
        latency_section(metrics),
        prefix_section(job.plan),
        density_section(job.plan),
        failures_section(job),
        phases_section(metrics),
        configuration_section(job),
    ]
    return Page(
        kind="Simulated run" if job.simulated else "Job report",
        name=job.name,
        subtitle=_outcome(job),
        simulated=job.simulated,
        notes=job.notes,
        facts=tuple(_facts(job)),
        sections=[section for section in sections if section.blocks],
    )


def headline(metrics: Metrics) -> Cards:
    """The first row: what the run is judged by."""
    figures = {figure.name: figure for figure in metrics.headline()}
    makespan, predicted, optimum = metrics.makespan_s, metrics.predicted_s, metrics.optimum_s
    prompt, output = metrics.tokens
    notes = {
        "Throughput": f"{units.count(prompt)} prompt + {units.count(output)} output tokens",
        "Makespan": "first submit to last result",
        "Of the optimum": f"optimum {units.seconds(optimum)}, modelled" if optimum else "",
        "Predicted makespan": (
            f"simulated; the run took {makespan / predicted:.2f} times as long"
            if predicted and makespan
            else ""
        ),
        "Sharing possible": "of the prompt tokens",
        "Sharing kept": (
            f"{units.ratio(metrics.sharing_achieved)} of the prompt tokens came from the cache"
            if metrics.sharing_achieved is not None
            else ""
        ),
    }
    cards = [
        Card(name, units.with_unit(figure.value, figure.unit), note, figure.definition)
        for name, note in notes.items()
        if (figure := figures[name]).value is not None
    ]
    if len(cards) % 3 == 2 and metrics.timeline is not None:
        tail = next(figure for figure in metrics.engine() if figure.name == "Tail")
        cards.append(Card(tail.name, units.with_unit(tail.value, tail.unit), "nobody waits", tail.definition))
    return Cards(cards, "large")


def _outcome(job: JobRecord) -> str:
    summary = job.summary
    words = [f"{summary['ok']:,} answered"]
    if job.simulated:
        return f"{summary['ok']:,} requests, simulated: nothing on this page was measured"
    words.append(f"{summary['failed']:,} failed")
    if summary.get("not_run"):
        words.append(f"{summary['not_run']:,} not run")
    if summary.get("stopped_by"):
        words.append(f"stopped by {summary['stopped_by']}")
    if len(job.runs) > 1:
        words.append(f"{len(job.runs)} runs")
    return " · ".join(words)


def _facts(job: JobRecord) -> Iterable[str]:
    for engine in job.engines[:1]:
        known = engine.header if not job.simulated else job.summary["config"]
        model, device = known.get("model"), known.get("device") or known.get("hardware")
        if model:
            yield str(model)
        if device and isinstance(device, str):
            size = engine.header.get("tp_size", 1)
            yield f"{size} x {device}" if size != 1 else device
    if job.plan.get("order"):
        yield f"order {job.plan['order']}"
    started = [run.plan["started_at"] for run in job.runs if "started_at" in run.plan]
    if started:
        yield datetime.fromtimestamp(min(started), UTC).strftime("%Y-%m-%d %H:%M UTC")
