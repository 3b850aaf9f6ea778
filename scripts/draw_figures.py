"""Draws the figures of docs/how-it-works.md from a planned workload.

    python scripts/draw_figures.py

The workload is made (`simulate.synthesis`, paper trace 1, 20,000 requests, seed 0) and planned for
Llama-3.1-8B on an A100; the timeline is simulated, nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np

from sglang_blend.core import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.request import Side
from sglang_blend.core.workload import Workload
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate_schedule
from sglang_blend.simulate.synthesis import SynthesisedTrace, paper_trace, synthesise
from sglang_blend.simulate.timeline import Timeline

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
NUM_REQUESTS, NUM_PIECES = 20_000, 60
_GREY, _BLUE, _ORANGE = "#808a8a", "#2a7fb8", "#d9822b"


def made_workload() -> tuple[SynthesisedTrace, Workload]:
    """What both figures are about."""
    cost = RooflineCost(
        shape=model_shape("llama-3.1-8b"), hardware=hardware("A100"), tp_size=1, gemm_curve=None
    )
    trace = synthesise(cost, replace(paper_trace(1), num_requests=NUM_REQUESTS), seed=0)
    return trace, make_workload(trace.table, cost, PlanConfig())


def timeline_chart(trace: SynthesisedTrace, workload: Workload) -> alt.VConcatChart:
    """Prefill rate and use of the KV pool while an engine that overlaps runs three orders, simulated."""
    cost = workload.cost
    assert isinstance(cost, RooflineCost)
    job = SimulatedJob.from_table(trace.table, trace.output_len, tree=workload.tree)
    engine = EngineConfig(mode="overlap", paced=True, admission="peak")
    rows = []
    for order in ("dfs", "dual-scan", "stationary"):
        schedule = make_schedule(workload.table, cost, PlanConfig(order=order), workload=workload)
        ran = simulate_schedule(job, schedule, cost, engine, record_timeline=True)
        assert ran.timeline is not None
        rows += [
            {"order": order, "seconds": t, "prefill": p, "pool": 100 * u / cost.kv_pool_tokens}
            for t, p, u in _pieces(ran.timeline)
        ]
    base = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2, interpolate="step-after")
    colour = alt.Color("order:N", title=None)
    x = alt.X("seconds:Q", title="simulated seconds")
    top = base.encode(x=alt.X("seconds:Q", title=None), y=alt.Y("prefill:Q", title="prefill tokens / s"))
    bottom = base.encode(x=x, y=alt.Y("pool:Q", title="KV pool in use, %"))
    size = {"width": 620, "height": 130}
    return alt.vconcat(
        top.encode(color=colour).properties(**size), bottom.encode(color=colour).properties(**size)
    )


def _pieces(timeline: Timeline) -> Iterator[tuple[float, float, float]]:
    """Start, prefill tokens per second and mean pool tokens of `NUM_PIECES` pieces of equal time."""
    start_s = np.concatenate([[0.0], timeline.end_s[:-1]])
    step_s = timeline.end_s - start_s
    piece = np.minimum((start_s / timeline.end_s[-1] * NUM_PIECES).astype(int), NUM_PIECES - 1)
    seconds = np.bincount(piece, step_s, NUM_PIECES)
    prefill = np.bincount(piece, timeline.prefill_tokens * timeline.num_steps, NUM_PIECES)
    used = np.bincount(piece, timeline.tokens_in_use * step_s, NUM_PIECES)
    width = timeline.end_s[-1] / NUM_PIECES
    for i in np.flatnonzero(seconds).tolist():
        yield i * width, prefill[i] / seconds[i], used[i] / seconds[i]


def sides_chart(workload: Workload) -> alt.Chart:
    """Which requests each scanner of the dual scan takes."""
    schedule = make_schedule(workload.table, workload.cost, PlanConfig(order="dual-scan"), workload=workload)
    density = workload.leaf_density[workload.tree.leaf_of_row]
    shown = np.flatnonzero(np.isfinite(density))[:: max(NUM_REQUESTS // 800, 1)]
    names = {Side.NONE: "neither", Side.LEFT: "left scanner", Side.RIGHT: "right scanner"}
    rows = [
        {
            "position in the plan": int(schedule.rank[row]),
            "density": float(density[row]),
            "taken by": names[Side(int(schedule.side[row]))],
        }
        for row in shown.tolist()
    ]
    points = alt.Chart(alt.Data(values=rows)).mark_circle(size=14, opacity=0.8)
    return points.encode(
        x=alt.X("position in the plan:Q"),
        y=alt.Y("density:Q", scale=alt.Scale(type="log"), title="compute density of the request"),
        color=alt.Color(
            "taken by:N",
            title=None,
            scale=alt.Scale(domain=["left scanner", "right scanner"], range=[_BLUE, _ORANGE]),
        ),
    ).properties(width=620, height=240)


def main() -> None:
    """Write both figures as SVG that is readable on a light and on a dark page."""
    trace, workload = made_workload()
    FIGURES.mkdir(exist_ok=True)
    for name, chart in (("timeline", timeline_chart(trace, workload)), ("sides", sides_chart(workload))):
        styled = (
            chart.configure(background="transparent", font="sans-serif")
            .configure_axis(labelColor=_GREY, titleColor=_GREY, gridOpacity=0.2, domainColor=_GREY)
            .configure_legend(labelColor=_GREY, orient="top")
            .configure_view(stroke=None)
        )
        styled.save(str(FIGURES / f"{name}.svg"))


if __name__ == "__main__":
    main()
