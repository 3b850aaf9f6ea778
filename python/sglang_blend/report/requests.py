"""Single requests: output lengths against what was expected, latency, failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sglang_blend.report import charts, units
from sglang_blend.report.metrics import Metrics
from sglang_blend.report.over_time import figure_card
from sglang_blend.report.page import (
    Bar,
    Card,
    Cards,
    Cell,
    Chart,
    Columns,
    Section,
    Table,
)
from sglang_blend.report.records import JobRecord
from sglang_blend.report.scales import rounded, time_unit
from sglang_blend.report.units import NOTHING


def lengths_section(metrics: Metrics) -> Section:
    """Were outputs as long as expected?"""
    error = metrics.length_error
    if error is None:
        return Section(title="Output lengths")
    expected, true = metrics.length_pairs
    cells = _length_cells(expected, true)
    most = max(float(max(expected.max(), true.max())), 2.0)
    top = 2.0 ** math.ceil(math.log2(most * 1.05))
    cards = Cards(
        [
            Card("Expected in all", units.ratio(error.total_ratio), "of the true output tokens"),
            Card("Mean error", f"{error.mean_error:,.1f} tokens", "mean of |expected - true|"),
            Card("Bias", f"{error.bias:+,.1f} tokens", "above 0: outputs were shorter than expected"),
            Card("Underestimated", units.ratio(error.under_ratio), "of the requests"),
        ]
    )
    chart = Chart(
        title="Expected and true lengths",
        caption="Each cell counts requests; on the dashed diagonal the expectation was right, above it "
        "outputs were longer than expected, below it shorter.",
        spec=charts.length_map(top),
        columns=cells,
        table=_length_table(expected, true),
        describes="Expected against true output lengths",
        height=300,
    )
    sampled = f"{error.num_requests:,} requests"
    total = sum(run.requests.get("num_requests", 0) for run in metrics.job.runs)
    lead = f"{sampled} of {total:,}, a uniform sample." if total > error.num_requests else f"{sampled}."
    return Section(title="Output lengths", lead=lead, blocks=[cards, chart])


def latency_section(metrics: Metrics) -> Section:
    """How long single requests took, for those who care."""
    seconds = metrics.latencies_s
    if not len(seconds):
        return Section(title="Latency")
    cards = Cards([figure_card(figure) for figure in metrics.latency()])
    return Section(
        title="Latency",
        lead="From handing a request to the engine to its answer, most of it waiting: a batch job trades "
        "latency for throughput.",
        blocks=[cards, latency_chart(seconds, None)],
    )


def latency_chart(seconds: np.ndarray[Any, np.dtype[np.float64]], most_s: float | None) -> Chart:
    unit, scale = time_unit(most_s or float(seconds[-1]))
    percent = np.arange(0, 101)
    value = np.percentile(seconds, percent)
    shown = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
    return Chart(
        title="Latency by percentile",
        caption="Read upwards: half of the requests had their answer by the height of the curve at 50.",
        spec=charts.percentiles(f"latency, {unit}", most_s / scale if most_s else None),
        columns={"percent": percent.tolist(), "value": rounded(value / scale)},
        table=Table(
            head=("percentile", "latency"),
            align="lr",
            rows=[(f"{p}%", units.seconds(float(value[p]))) for p in shown],
            summary="The numbers",
        ),
        describes="Latency by percentile",
    )


def failures_section(job: JobRecord) -> Section:
    """Why lines have no answer."""
    if not job.failures:
        return Section(title="Failures")
    most = max(failures.num_lines for failures in job.failures)
    rows: list[tuple[Cell, ...]] = [
        (
            f.code,
            Bar(f"{f.num_lines:,}", f.num_lines / most),
            "" if f.line is None else f"{f.line:,}",
            f.example or NOTHING,
        )
        for f in job.failures
    ]
    table = Table(
        head=("reason", "lines", "first in line", "what it was told"), align="lrrl", rows=rows, prose=True
    )
    return Section(
        title="Failures",
        lead=f"{job.summary['failed']:,} lines have no answer; they are in {job.summary.get('error_file')}.",
        blocks=[table],
    )


def _length_cells(expected: Any, true: Any) -> Columns:
    """Requests in cells of half a power of two."""
    x = np.floor(2 * np.log2(np.maximum(expected, 1))).astype(int)
    y = np.floor(2 * np.log2(np.maximum(true, 1))).astype(int)
    cells, n = np.unique(np.stack([x, y], axis=1), axis=0, return_counts=True)
    low, high = 2.0 ** (cells / 2), 2.0 ** ((cells + 1) / 2)
    return {
        "x0": rounded(low[:, 0]), "x1": rounded(high[:, 0]), "y0": rounded(low[:, 1]),
        "y1": rounded(high[:, 1]), "n": n.tolist(),
    }  # fmt: skip


def _length_table(expected: Any, true: Any) -> Table:
    size = np.floor(np.log2(np.maximum(expected, 1))).astype(int)
    rows: list[tuple[Cell, ...]] = []
    for each in np.unique(size):
        of = size == each
        rows.append(
            (
                f"{2**each:,} to {2 ** (each + 1) - 1:,}",
                f"{int(of.sum()):,}",
                f"{expected[of].mean():,.1f}",
                f"{true[of].mean():,.1f}",
                f"{np.percentile(true[of], 90):,.0f}",
                units.ratio(float((true[of] > expected[of]).mean())),
            )
        )
    return Table(
        head=("expected, tokens", "requests", "mean expected", "mean true", "true p90", "underestimated"),
        align="lrrrrr",
        rows=rows,
        summary="The numbers",
    )
