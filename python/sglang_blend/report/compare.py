"""Two jobs side by side: figure by figure, chart beside chart on equal axes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sglang_blend.report import units
from sglang_blend.report.metrics import Figure, Metrics
from sglang_blend.report.over_time import timeline_charts
from sglang_blend.report.page import (
    Cell,
    Page,
    Pair,
    Section,
    Table,
    Verdict,
)
from sglang_blend.report.records import JobRecord
from sglang_blend.report.requests import latency_chart
from sglang_blend.report.settings import configuration
from sglang_blend.report.timeline import Timeline, make_timeline
from sglang_blend.report.units import NOTHING

_USES = (("compute_s",), ("kv_read_s", "weight_read_s"))


def compare_page(first: JobRecord, second: JobRecord) -> Page:
    """Two jobs, figure by figure and chart beside chart, on equal axes."""
    jobs = (first, second)
    lines = [make_timeline(job.engines) for job in jobs]
    metrics = [Metrics(job, line) for job, line in zip(jobs, lines, strict=True)]
    groups = [
        [figure for group in (m.headline(), m.engine(), m.latency()) for figure in group] for m in metrics
    ]
    by_name = [{figure.name: figure for figure in group} for group in groups]
    names = list(dict.fromkeys(figure.name for group in groups for figure in group))
    rows = [_compared(name, by_name[0].get(name), by_name[1].get(name)) for name in names]
    table = Table(
        head=("figure", "A", "B", "B / A", "what it is"),
        align="lrrrl",
        rows=[row for row in rows if row is not None],
        note="Green: B is better by more than 1%. Red: worse. Black: as good, or neither can be said.",
        prose=True,
    )
    both = (
        Section(
            title="Figures",
            lead=f"A is {first.name}. B is {second.name}.",
            blocks=[table],
        ),
        Section(
            title="Over time",
            lead="A on the left, B on the right; both on the same axes, so a shorter run ends earlier.",
            blocks=list(_paired_timelines(lines)),
        ),
        _paired_latency(metrics),
        Section(
            title="Where the runs differ",
            lead="Settings that are not the same; a difference here may explain one above.",
            blocks=[_differences(first, second)],
        ),
    )
    simulated = [letter for letter, job in zip("AB", jobs, strict=True) if job.simulated]
    return Page(
        kind="Comparison" + (f" ({' and '.join(simulated)} simulated)" if simulated else ""),
        name=f"{first.name} · {second.name}",
        subtitle="Two runs side by side",
        simulated=bool(simulated),
        notes=tuple(
            f"{letter}: {note}" for letter, job in zip("AB", jobs, strict=True) for note in job.notes
        ),
        sections=[section for section in both if section.blocks],
    )


def _compared(name: str, a: Figure | None, b: Figure | None) -> tuple[Cell, ...] | None:
    known = a or b
    assert known is not None, "the name is of one of them"
    values = [None if figure is None else figure.value for figure in (a, b)]
    if values == [None, None]:
        return None
    ratio: Cell = NOTHING
    if values[0] and values[1] is not None:
        change = values[1] / values[0]
        ratio = f"{change:.3g}"
        if known.better and abs(change - 1) > 0.01:
            ratio = Verdict(ratio, (change > 1) == (known.better > 0))
    return name, *(units.with_unit(value, known.unit) for value in values), ratio, known.definition


def _paired_timelines(lines: list[Timeline | None]) -> Iterable[Pair]:
    first, second = lines
    if first is None or second is None:
        return
    both = (first, second)
    duration_s = max(line.duration_s for line in both)

    def top(*values: Any) -> float:
        return 1.05 * max(float(np.nanmax(value, initial=0.0)) for value in values) or 1.0

    most = {
        "use": top(1.0, *(line.rate(*names) for line in both for names in _USES)),
        "kv": top(*(line.states["kv_used_tokens"] for line in both)),
        "requests": top(*(line.states["num_running"] for line in both)),
        "throughput": top(*(line.rate("prefill_tokens", "decode_tokens") for line in both)),
    }
    sides = [
        {chart.title: chart for chart in timeline_charts(line, {}, duration_s=duration_s, most=most)}
        for line in both
    ]
    for title in sides[0]:
        if title in sides[1]:
            yield Pair(sides[0][title], sides[1][title])


def _paired_latency(metrics: list[Metrics]) -> Section:
    seconds = [each.latencies_s for each in metrics]
    if not all(len(each) for each in seconds):
        return Section(title="Latency")
    most = max(float(each[-1]) for each in seconds)
    return Section(title="Latency", blocks=[Pair(*(latency_chart(each, most) for each in seconds))])


def _differences(first: JobRecord, second: JobRecord) -> Table:
    a, b = configuration(first), configuration(second)
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    rows: list[tuple[Cell, ...]] = [(name, a.get(name, NOTHING), b.get(name, NOTHING)) for name in names]
    return Table(head=("setting", "A", "B"), align="lll", rows=rows or [("none", "", "")])
