"""The figures as Vega-Lite specifications, built with Altair. Colours and type come from the page's theme.

Every specification reads one named data set, `table`, which the page fills; names of fields are ours, so no
text of a user ever becomes part of a specification.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import altair as alt

DATA = "table"
# 0, 500, 1k, 1.5k: Vega's own format of an axis would write 0k and 0.5k.
_SI = "format(datum.value, '.4~s')"
Spec = dict[str, Any]


class Series(NamedTuple):
    """A field of the data and what the legend calls it."""

    field: str
    label: str


def over_time(
    series: list[Series],
    *,
    y_title: str,
    x_title: str,
    duration: float,
    y_format: str = "~s",
    stacked: bool = False,
    log: tuple[float, float] | None = None,
    limit: tuple[float, str] | None = None,
    y_max: float | None = None,
    colours: str = "category",
    marks: list[float] | None = None,
    tail_start: float | None = None,
) -> Spec:
    """Lines or stacked areas over `t`.

    Args:
        duration: where the time axis ends, in the unit of `t`.
        log: ends of a logarithmic axis; None for one that begins at 0.
        limit: a horizontal line and its name.
        y_max: where the axis ends; None lets the data decide.
        colours: name of a range of the theme.
        marks: moments at which another engine began.
        tail_start: from here to the end is shaded.
    """
    x = alt.X(
        "t:Q",
        title=x_title,
        scale=alt.Scale(domain=[0, duration], nice=False),
        axis=alt.Axis(tickCount=8, grid=False),
    )
    if log is not None:
        scale = alt.Scale(type="log", domain=list(log), nice=False, clamp=True)
        axis = alt.Axis(format=y_format, values=round_steps(*log))
    else:
        domain: Any = [0, y_max] if y_max else alt.Undefined
        scale = alt.Scale(nice=not y_max, domain=domain)
        axis = (
            alt.Axis(tickCount=5, labelExpr=_SI)
            if y_format == "~s"
            else alt.Axis(tickCount=5, format=y_format)
        )
    labels = [each.label for each in series]
    folded = (
        alt.Chart(alt.NamedData(DATA))
        .transform_fold([each.field for each in series], as_=["field", "value"])
        .transform_calculate(series=_label_of(series))
        .transform_filter("isValid(datum.value)")
    )
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=labels, range=colours),
        legend=alt.Legend(orient="top", title=None, symbolType="square" if stacked else "stroke")
        if len(series) > 1
        else None,
        sort=labels,
    )
    y = alt.Y("value:Q", title=y_title, scale=scale, axis=axis, stack="zero" if stacked else None)
    mark = (
        folded.mark_area(interpolate="step-after", opacity=0.85)
        if stacked
        else folded.mark_line(interpolate="linear" if log else "step-after", strokeWidth=1.6)
    )
    layers: list[Any] = []
    if tail_start is not None and tail_start < duration * 0.995:
        layers.append(
            alt.Chart(_values([{"a": tail_start, "b": duration}]))
            .mark_rect(style="tail")
            .encode(x=alt.X("a:Q"), x2="b:Q")
        )
    layers.append(mark.encode(x=x, y=y, color=colour))
    if limit is not None:
        rule = alt.Chart(_values([{"y": limit[0], "name": limit[1]}]))
        layers.append(rule.mark_rule(style="limit", strokeDash=[5, 4]).encode(y=alt.Y("y:Q", scale=scale)))
        layers.append(
            rule.mark_text(style="limit-label", align="right", dx=-4, dy=-6).encode(
                x=alt.value("width"), y=alt.Y("y:Q", scale=scale), text="name:N"
            )
        )
    if marks:
        layers.append(
            alt.Chart(_values([{"t": moment} for moment in marks]))
            .mark_rule(style="restart", strokeDash=[2, 3])
            .encode(x="t:Q")
        )
    layers.append(_hover(series, x, y_format))
    return _finish(alt.layer(*layers))


def _label_of(series: list[Series]) -> str:
    text = f"'{series[-1].label}'"
    for each in series[-2::-1]:
        text = f"datum.field === '{each.field}' ? '{each.label}' : {text}"
    return text


def _hover(series: list[Series], x: alt.X, y_format: str) -> alt.Chart:
    nearest = alt.selection_point(
        name="hover", nearest=True, on="pointerover", clear="pointerout", fields=["t"], empty=False
    )
    tips = [alt.Tooltip("t:Q", format=",.4~r", title="time")]
    tips += [alt.Tooltip(f"{each.field}:Q", title=each.label, format=_tip(y_format)) for each in series]
    chart: alt.Chart = (
        alt.Chart(alt.NamedData(DATA))
        .mark_rule(style="hover")
        .encode(x=x, opacity=alt.condition(nearest, alt.value(0.6), alt.value(0)), tooltip=tips)
        .add_params(nearest)
    )
    return chart


def _tip(y_format: str) -> str:
    return y_format if y_format.endswith("%") else ",.4~r"


def length_map(most: float) -> Spec:
    """Expected against true lengths: `x0 x1 y0 y1 n` are cells, the diagonal is where both agree."""
    scale = alt.Scale(type="log", domain=[1, most], nice=False)
    axis = alt.Axis(values=round_steps(1, most), labelExpr=_SI)
    heat = alt.Scale(type="log", range="heatmap")
    cells = (
        alt.Chart(alt.NamedData(DATA))
        .mark_rect()
        .encode(
            x=alt.X("x0:Q", title="expected output, tokens", scale=scale, axis=axis),
            x2="x1:Q",
            y=alt.Y("y0:Q", title="true output, tokens", scale=scale, axis=axis),
            y2="y1:Q",
            color=alt.Color("n:Q", title="requests", scale=heat, legend=alt.Legend(format="~s", tickCount=4)),
            tooltip=[
                alt.Tooltip("x0:Q", title="expected from", format=",.3~r"),
                alt.Tooltip("y0:Q", title="true from", format=",.3~r"),
                alt.Tooltip("n:Q", title="requests", format=","),
            ],
        )
    )
    ends = alt.Chart(_values([{"a": 1, "b": 1}, {"a": most, "b": most}]))
    line = ends.mark_line(style="limit", strokeDash=[5, 4], strokeWidth=1.2)
    return _finish(cells + line.encode(x=alt.X("a:Q", scale=scale), y=alt.Y("b:Q", scale=scale)))


def percentiles(y_title: str, y_max: float | None = None) -> Spec:
    """`value` at each `percent`."""
    x = alt.X(
        "percent:Q",
        title="percent of the requests",
        scale=alt.Scale(domain=[0, 100]),
        axis=alt.Axis(tickCount=10, grid=False),
    )
    scale = alt.Scale(domain=[0, y_max]) if y_max else alt.Scale(zero=True)
    y = alt.Y("value:Q", title=y_title, scale=scale, axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.NamedData(DATA))
    nearest = alt.selection_point(
        name="hover", nearest=True, on="pointerover", clear="pointerout", fields=["percent"], empty=False
    )
    tips = [alt.Tooltip("percent:Q"), alt.Tooltip("value:Q", title=y_title, format=",.4~r")]
    shown = alt.condition(nearest, alt.value(0.6), alt.value(0))
    rule = base.mark_rule(style="hover").encode(x=x, opacity=shown, tooltip=tips).add_params(nearest)
    return _finish(base.mark_line(strokeWidth=2).encode(x=x, y=y) + rule)


def density_classes(root: float | None, low: float, high: float, most_s: float) -> Spec:
    """Seconds of compute and memory in each class of density: from `a` to `b`, stacked from `y0` to `y1`."""
    labels = ["compute", "KV reads"]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    axis = alt.Axis(values=round_steps(low, high), format="~g", grid=False)
    colours = alt.Scale(domain=labels, range="category")
    legend = alt.Legend(orient="top", title=None)
    y_scale = alt.Scale(domain=[0, most_s * 1.15], nice=False)  # room for the name of the line
    bars = (
        alt.Chart(alt.NamedData(DATA))
        .mark_rect(style="prefix")
        .encode(
            x=alt.X("a:Q", title="compute density of a request", scale=scale, axis=axis),
            x2="b:Q",
            y=alt.Y(
                "y0:Q", title="modelled seconds", scale=y_scale, axis=alt.Axis(tickCount=5, format=",.4~r")
            ),
            y2="y1:Q",
            color=alt.Color("kind:N", sort=labels, scale=colours, legend=legend),
            tooltip=[
                alt.Tooltip("a:Q", title="density from", format=".3~g"),
                alt.Tooltip("kind:N", title="what"),
                alt.Tooltip("seconds:Q", format=",.4~r"),
                alt.Tooltip("n:Q", title="requests", format=","),
            ],
        )
    )
    if root is None:
        return _finish(bars)
    rule = alt.Chart(_values([{"x": root, "name": "whole job"}]))
    line = rule.mark_rule(style="limit", strokeDash=[5, 4]).encode(x=alt.X("x:Q", scale=scale))
    text = rule.mark_text(style="limit-label", align="left", dx=5, baseline="top").encode(
        x=alt.X("x:Q", scale=scale), y=alt.value(4), text="name:N"
    )
    return _finish(alt.layer(bars, line, text))


def prefix_map(density: tuple[float, float] | None) -> Spec:
    """Shared prefixes as rectangles: requests from left to right, tokens of the prompt from top to bottom.

    Args:
        density: ends of the colour scale; None where densities are not known.
    """
    x = alt.X(
        "start:Q",
        title="requests, in the order of the prefix tree",
        scale=alt.Scale(nice=False),
        axis=alt.Axis(grid=False, labelExpr=_SI, tickCount=8),
    )
    y = alt.Y(
        "parent_len:Q",
        title="prompt tokens",
        scale=alt.Scale(reverse=True, nice=False),
        axis=alt.Axis(tickCount=5, labelExpr=_SI),
    )
    tips = [
        alt.Tooltip("number:Q", title="number in the table"),
        alt.Tooltip("requests:Q", format=","),
        alt.Tooltip("prefix_len:Q", title="prefix tokens", format=","),
        alt.Tooltip("saved_tokens:Q", title="tokens saved", format=","),
    ]
    base = (
        alt.Chart(alt.NamedData(DATA))
        .mark_rect(style="prefix")
        .encode(x=x, x2="end:Q", y=y, y2="prefix_len:Q")
    )
    if density is None:
        return _finish(base.encode(tooltip=tips))
    scale = alt.Scale(type="log", range="diverging", domain=list(density), clamp=True, interpolate="rgb")
    colour = alt.Color(
        "density:Q",
        title="density",
        scale=scale,
        legend=alt.Legend(format=".3~r", values=round_steps(*density)),
    )
    tips.append(alt.Tooltip("density:Q", format=".3~g"))
    return _finish(base.encode(color=colour, tooltip=tips))


def round_steps(low: float, high: float) -> list[float]:
    """Round values between the ends of a logarithmic axis: 1, 2 and 5, or fewer where those are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) <= 7:
            break
    return found


def orders(optimum: float | None, unit: str) -> Spec:
    """A bar for the predicted makespan of each order; the one that is taken stands out."""
    bars = (
        alt.Chart(alt.NamedData(DATA))
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X("value:Q", title=f"predicted makespan, {unit} (simulated)", axis=alt.Axis(tickCount=6)),
            y=alt.Y("order:N", title=None, sort=None, axis=alt.Axis(grid=False)),
            color=alt.Color(
                "kind:N", scale=alt.Scale(domain=["taken", "other"], range="ordinal"), legend=None
            ),
            tooltip=[alt.Tooltip("order:N"), alt.Tooltip("value:Q", title=unit, format=",.4~r")],
        )
    )
    if optimum is None:
        return _finish(bars)
    rule = alt.Chart(_values([{"x": optimum, "name": "optimum"}]))
    line = rule.mark_rule(style="limit", strokeDash=[5, 4]).encode(x=alt.X("x:Q"))
    text = rule.mark_text(style="limit-label", align="left", dx=4, baseline="bottom").encode(
        x=alt.X("x:Q"), y=alt.value(-3), text="name:N"
    )
    return _finish(alt.layer(bars, line, text))


def _values(rows: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=rows)


def _finish(chart: Any) -> Spec:
    with alt.data_transformers.disable_max_rows():
        spec: Spec = chart.properties(width="container").to_dict()
    spec.pop("config", None)  # the page has its own, for light and dark
    return spec
