"""The timeline: what every moment of a run looked like."""

from __future__ import annotations

import math
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
from sglang_blend.report.timeline import Timeline
from sglang_blend.report.units import NOTHING

# Rows of a chart's table; the chart has all bins.
_TABLE_BINS = 40
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
    """Device use, KV memory, density, requests, throughput.

    Args:
        duration_s: where the axis ends; that of this run if None.
        most: where the value axes end, by chart; what the data need if absent.
    """
    duration_s = duration_s or line.duration_s
    most = most or {}
    unit, scale = time_unit(duration_s)
    time: Columns = {"t": rounded(line.start_s / scale)}
    common: dict[str, Any] = {
        "x_title": f"time, {unit}",
        "duration": duration_s / scale,
        "marks": [moment / scale for moment in line.restarts_s],
        "tail_start": line.tail_start_s / scale if duration_s == line.duration_s else None,
    }
    found = []
    if line.compute_use is not None:
        columns = time | {
            "compute": rounded(line.rate("compute_s")),
            "memory": rounded(line.rate("kv_read_s", "weight_read_s")),
        }
        series = [Series("compute", "compute"), Series("memory", "memory (KV and weights)")]
        found.append(
            Chart(
                title="Compute and memory use",
                caption="Share of each moment that its work keeps the compute units and the memory "
                "bandwidth busy, modelled. Work is well blended where both lines are high together, and "
                "takes turns where one is high while the other is low.",
                spec=charts.over_time(
                    series,
                    y_title="modelled use",
                    y_format=".0%",
                    y_max=most.get("use"),
                    limit=(1.0, "100%"),
                    **common,
                ),
                columns=closed(columns, line.duration_s / scale),
                table=_time_table(columns, series, unit, units.ratio),
                describes="Modelled compute and memory use over time",
            )
        )
    found.append(_kv_chart(line, time, unit, line.duration_s / scale, most.get("kv"), common))
    if line.compute_use is not None and line.sums["kv_read_s"].any():
        running = line.running_density()
        columns = time | {"density": rounded(running)}
        series = [Series("density", "running density")]
        root = plan.get("root_density")
        found.append(
            Chart(
                title="Running density",
                caption="Compute over KV read time of what was executed around each moment, modelled. The "
                "dashed line is the density of the whole job: the closer the curve stays to it, the better "
                "the mix. Pure prefill has no KV reads and is off the scale.",
                spec=charts.over_time(
                    series,
                    y_title="density",
                    y_format="~g",
                    log=density_ends([*running, root or math.nan]),
                    limit=(root, f"whole job {units.density(root)}") if root else None,
                    **common,
                ),
                columns=closed(columns, line.duration_s / scale),
                table=_time_table(columns, series, unit, units.density),
                describes="Density of the executed work over time",
                height=190,
            )
        )
    columns = time | {
        "running": rounded(line.states["num_running"]),
        "waiting": rounded(line.states["num_waiting"]),
    }
    series = [Series("running", "running"), Series("waiting", "waiting in the scheduler")]
    dwarfed = np.nanmax(line.states["num_waiting"]) > 10 * np.nanmax(line.states["num_running"])
    many = bool(dwarfed) or "requests" in most
    caption = "Requests that run at once. A thin end is the tail: too few requests to keep the device busy. "
    if many:
        caption += "Those that wait would dwarf them and are in the table only."
    else:
        caption += "Those that wait inside the engine come from the window that the job hands over."
    found.append(
        Chart(
            title="Requests",
            caption=caption,
            spec=charts.over_time(
                series[:1] if many else series, y_title="requests", y_max=most.get("requests"), **common
            ),
            columns=closed(columns, line.duration_s / scale),
            table=_time_table(columns, series, unit, units.count),
            describes="Requests running and waiting over time",
            height=190,
        )
    )
    columns = time | {
        "prefill": rounded(line.rate("prefill_tokens")),
        "decode": rounded(line.rate("decode_tokens")),
        "cached": rounded(line.rate("cached_tokens")),
    }
    series = [Series("prefill", "prefill"), Series("decode", "decode")]
    found.append(
        Chart(
            title="Throughput",
            caption="Prompt tokens computed and tokens decoded per second. Prompt tokens taken from the "
            "cache cost nothing and are left out; the table has them.",
            spec=charts.over_time(
                series, y_title="tokens / s", stacked=True, y_max=most.get("throughput"), **common
            ),
            columns=closed(columns, line.duration_s / scale),
            table=_time_table(columns, [*series, Series("cached", "from the cache")], unit, units.rate),
            describes="Tokens per second over time",
            height=190,
        )
    )
    return found


def _kv_chart(
    line: Timeline, time: Columns, unit: str, end: float, most: float | None, common: dict[str, Any]
) -> Chart:
    used = line.states["kv_used_tokens"]
    left, right = line.states["kv_left_tokens"], line.states["kv_right_tokens"]
    total = left + right
    has_sides = bool(np.nansum(right) > 0)
    if has_sides:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(total > 0, left / total, np.nan)
        columns = time | {"left": rounded(used * share), "right": rounded(used * (1 - share))}
        series = [Series("left", "left, compute-intensive"), Series("right", "right, memory-intensive")]
        caption = (
            "Tokens that running requests hold, shared prefixes counted once, divided between the two sides "
            "of the plan. Room below the dashed pool size means that fewer requests ran than could have."
        )
    else:
        columns = time | {"used": rounded(used)}
        series = [Series("used", "in use")]
        caption = (
            "Tokens that running requests hold, shared prefixes counted once. Room below the dashed pool "
            "size means that fewer requests ran than could have."
        )
    pool = line.kv_pool_tokens
    peak = float(np.nanmax(used, initial=0.0))
    # A pool that is never half full would flatten everything else.
    limit = (float(pool), f"pool {units.count(pool)}") if pool and peak > 0.2 * pool else None
    if pool and limit is None:
        caption += (
            f" The pool holds {units.count(pool)} tokens, far more than were needed, so its line is left out."
        )
    return Chart(
        title="KV memory",
        caption=caption,
        spec=charts.over_time(series, y_title="tokens", stacked=True, limit=limit, y_max=most, **common),
        columns=closed(columns, end),
        table=_time_table(columns, series, unit, units.count),
        describes="Tokens in the KV pool over time",
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
