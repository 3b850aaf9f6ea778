"""The timeline: what every moment of a run looked like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sglang_blend.report import charts, units
from sglang_blend.report.charts import Series
from sglang_blend.report.metrics import Figure, Metrics
from sglang_blend.report.page import (
    Card,
    Cards,
    Cell,
    Chart,
    Columns,
    Section,
    Table,
)
from sglang_blend.report.scales import closed, density_ends, rounded, time_unit
from sglang_blend.report.timeline import FloatArray, Timeline
from sglang_blend.report.units import NOTHING

# Rows of a chart's table; the chart has all bins.
_TABLE_BINS = 40
# Height of the charts that need less of it.
_LOW = 190
# Said in the words above the charts.
_LEFT_OUT = ("Forward passes", "Tail share")


def over_time_section(metrics: Metrics) -> Section:
    """What every moment looked like."""
    line = metrics.timeline
    if line is None:
        return Section(title="Over time")
    lead = f"{line.num_steps:,} steps in {units.seconds(line.duration_s)}. "
    if line.num_records > len(line.start_s):
        lead += (
            f"The charts show {len(line.start_s)} means over {units.seconds(line.bin_s)} each; shorter "
            "peaks are not visible. "
        )
    if line.tail_s > 0.005 * line.duration_s:
        lead += f"The shaded tail ({units.seconds(line.tail_s)}) begins when no request waits any more."
    if line.restarts_s:
        lead += (
            f" A dotted line is a new engine ({len(line.restarts_s)} of them; the time between is left out)."
        )
    shown = [
        figure for figure in metrics.engine() if figure.value is not None and figure.name not in _LEFT_OUT
    ]
    figures = Cards([figure_card(figure) for figure in shown])
    return Section(title="Over time", lead=lead, blocks=[figures, *timeline_charts(line, metrics.job.plan)])


def timeline_charts(
    line: Timeline,
    plan: dict[str, Any],
    *,
    duration_s: float | None = None,
    most: dict[str, float] | None = None,
) -> list[Chart]:
    """Device use, KV memory, density, requests, throughput; the division of the GPU where there is one.

    Args:
        duration_s: where the axis ends; that of this run if None.
        most: where the value axes end, by chart; what the data need if absent.
    """
    axis = _TimeAxis.of(line, duration_s or line.duration_s)
    most = most or {}
    found = []
    if line.compute_use is not None:
        found.append(_use_chart(line, axis, most.get("use")))
    found.append(_kv_chart(line, axis, most.get("kv")))
    if line.compute_use is not None and line.sums["kv_read_s"].any():
        found.append(_density_chart(line, axis, plan.get("root_density")))
    if not np.isnan(line.states["decode_sm_share"]).all():
        found.append(_division_chart(line, axis))
    found.append(_requests_chart(line, axis, most.get("requests")))
    found.append(_throughput_chart(line, axis, most.get("throughput")))
    return found


@dataclass(frozen=True)
class _TimeAxis:
    """What the charts of a run have in common.

    Attributes:
        unit, time: of the axis; when each bin begins, in that unit.
        end: where the run ends; the axis may go on, for a run beside it that took longer.
        options: of every chart.
    """

    unit: str
    time: Columns
    end: float
    options: dict[str, Any]

    @classmethod
    def of(cls, line: Timeline, duration_s: float) -> _TimeAxis:
        unit, scale = time_unit(duration_s)
        options: dict[str, Any] = {
            "x_title": f"time, {unit}",
            "duration": duration_s / scale,
            "marks": [moment / scale for moment in line.restarts_s],
            "tail_start": line.tail_start_s / scale if duration_s == line.duration_s else None,
        }
        return cls(unit, {"t": rounded(line.start_s / scale)}, line.duration_s / scale, options)

    def chart(
        self,
        values: dict[str, FloatArray],
        series: list[Series],
        form: Any,
        *,
        title: str,
        caption: str,
        describes: str,
        table_series: list[Series] | None = None,
        height: int = Chart.height,
        **options: Any,
    ) -> Chart:
        """A chart of (b,) values by field; `form` writes one in the table, `options` go to `over_time`."""
        columns = self.time | {name: rounded(value) for name, value in values.items()}
        return Chart(
            title=title,
            caption=caption,
            spec=charts.over_time(series, **options, **self.options),
            columns=closed(columns, self.end),
            table=_time_table(columns, table_series or series, self.unit, form),
            describes=describes,
            height=height,
        )


def _use_chart(line: Timeline, axis: _TimeAxis, most: float | None) -> Chart:
    return axis.chart(
        {"compute": line.rate("compute_s"), "memory": line.rate("kv_read_s", "weight_read_s")},
        [Series("compute", "compute"), Series("memory", "memory (KV and weights)")],
        units.ratio,
        title="Compute and memory use",
        caption="Share of each moment that its work keeps the compute units and the memory "
        "bandwidth busy, modelled. Work is well blended where both lines are high together, and "
        "takes turns where one is high while the other is low.",
        describes="Modelled compute and memory use over time",
        y_title="modelled use",
        y_format=".0%",
        y_max=most,
        limit=(1.0, "100%"),
    )


def _density_chart(line: Timeline, axis: _TimeAxis, root: float | None) -> Chart:
    running = line.running_density()
    return axis.chart(
        {"density": running},
        [Series("density", "running density")],
        units.density,
        title="Running density",
        caption="Compute over KV read time of what was executed around each moment, modelled. The "
        "dashed line is the density of the whole job: the closer the curve stays to it, the better "
        "the mix. Pure prefill has no KV reads and is off the scale.",
        describes="Density of the executed work over time",
        height=_LOW,
        y_title="density",
        y_format="~g",
        log=density_ends([*running, root or math.nan]),
        limit=(root, f"whole job {units.density(root)}") if root else None,
    )


def _division_chart(line: Timeline, axis: _TimeAxis) -> Chart:
    return axis.chart(
        {"share": line.states["decode_sm_share"]},
        [Series("share", "decode")],
        units.ratio,
        title="Division of the GPU",
        caption="Part of the multiprocessors that decode has; prefill beside it has the rest "
        "(PD-multiplexing). Whichever runs alone has all of them.",
        describes="Part of the multiprocessors that decode has over time",
        height=_LOW,
        y_title="multiprocessors",
        y_format=".0%",
        y_max=1.0,
    )


def _requests_chart(line: Timeline, axis: _TimeAxis, most: float | None) -> Chart:
    running, waiting = line.states["num_running"], line.states["num_waiting"]
    series = [Series("running", "running"), Series("waiting", "waiting in the scheduler")]
    many = bool(np.nanmax(waiting) > 10 * np.nanmax(running)) or most is not None
    caption = "Requests that run at once. A thin end is the tail: too few requests to keep the device busy. "
    if many:
        caption += "Those that wait would dwarf them and are in the table only."
    else:
        caption += "Those that wait inside the engine come from the window that the job hands over."
    return axis.chart(
        {"running": running, "waiting": waiting},
        series[:1] if many else series,
        units.count,
        title="Requests",
        caption=caption,
        describes="Requests running and waiting over time",
        table_series=series,
        height=_LOW,
        y_title="requests",
        y_max=most,
    )


def _throughput_chart(line: Timeline, axis: _TimeAxis, most: float | None) -> Chart:
    series = [Series("prefill", "prefill"), Series("decode", "decode")]
    return axis.chart(
        {name: line.rate(f"{name}_tokens") for name in ("prefill", "decode", "cached")},
        series,
        units.rate,
        title="Throughput",
        caption="Prompt tokens computed and tokens decoded per second. Prompt tokens taken from the "
        "cache cost nothing and are left out; the table has them.",
        describes="Tokens per second over time",
        table_series=[*series, Series("cached", "from the cache")],
        height=_LOW,
        y_title="tokens / s",
        stacked=True,
        y_max=most,
    )


def _kv_chart(line: Timeline, axis: _TimeAxis, most: float | None) -> Chart:
    used = line.states["kv_used_tokens"]
    left, right = line.states["kv_left_tokens"], line.states["kv_right_tokens"]
    total = left + right
    caption = "Tokens that running requests hold, shared prefixes counted once"
    if np.nansum(right) > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(total > 0, left / total, np.nan)
        values = {"left": used * share, "right": used * (1 - share)}
        series = [Series("left", "left, compute-intensive"), Series("right", "right, memory-intensive")]
        caption += ", divided between the two sides of the plan"
    else:
        values = {"used": used}
        series = [Series("used", "in use")]
    caption += ". Room below the dashed pool size means that fewer requests ran than could have."
    pool = line.kv_pool_tokens
    peak = float(np.nanmax(used, initial=0.0))
    # A pool that is never half full would flatten everything else.
    limit = (float(pool), f"pool {units.count(pool)}") if pool and peak > 0.2 * pool else None
    if pool and limit is None:
        caption += (
            f" The pool holds {units.count(pool)} tokens, far more than were needed, so its line is left out."
        )
    return axis.chart(
        values,
        series,
        units.count,
        title="KV memory",
        caption=caption,
        describes="Tokens in the KV pool over time",
        y_title="tokens",
        stacked=True,
        limit=limit,
        y_max=most,
    )


def _time_table(columns: Columns, series: list[Series], unit: str, form: Any) -> Table:
    num = len(columns["t"])
    group = -(-num // _TABLE_BINS)
    rows: list[tuple[Cell, ...]] = []
    for begin in range(0, num, group):
        end = min(begin + group, num)
        cells = []
        for each in series:
            known = [value for value in columns[each.field][begin:end] if value is not None]
            cells.append(form(sum(known) / len(known)) if known else NOTHING)
        first, last = columns["t"][begin], columns["t"][end - 1]
        rows.append((f"{first:.4g}" if first == last else f"{first:.4g} \u2013 {last:.4g}", *cells))
    note = f"Means of {group} bins of the chart a row." if group > 1 else ""
    return Table(
        head=(f"time, {unit}", *(each.label for each in series)),
        align="l" + "r" * len(series),
        rows=rows,
        summary="The numbers",
        note=note,
    )


def figure_card(figure: Figure) -> Card:
    return Card(figure.name, units.with_unit(figure.value, figure.unit), "", figure.definition)
