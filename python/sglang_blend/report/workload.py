"""The job itself: where its sharing is, and how its densities are spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from sglang_blend.report import charts, units
from sglang_blend.report.page import (
    Bar,
    Cell,
    Chart,
    Columns,
    Section,
    Table,
)
from sglang_blend.report.scales import density_ends, rounded
from sglang_blend.report.units import NOTHING

_DRAWN_PREFIXES = 250
_FIRST_PREFIXES, _LISTED_PREFIXES = 10, 30


def prefix_section(plan: dict[str, Any]) -> Section:
    """Where the sharing is."""
    prefixes: list[dict[str, Any]] = plan.get("prefixes", [])
    if not prefixes:
        return Section(title="Shared prefixes")
    drawn = prefixes[:_DRAWN_PREFIXES]
    columns: Columns = {
        "number": list(range(1, len(drawn) + 1)),
        "start": [p["start"] for p in drawn],
        "end": [p["start"] + p["requests"] for p in drawn],
    }
    columns |= {
        name: [p[name] for p in drawn]
        for name in ("requests", "parent_len", "prefix_len", "saved_tokens", "density")
    }
    root = plan.get("root_density")
    densities = [p["density"] for p in drawn if p["density"]]
    ends = density_ends(densities, middle=root) if root and densities else None
    saved = plan["prompt_tokens"] - plan["unique_prompt_tokens"]
    covered = sum(p["saved_tokens"] for p in prefixes)
    most = max(p["saved_tokens"] for p in prefixes)
    rows: list[tuple[Cell, ...]] = [
        (
            str(number),
            f"{p['requests']:,}",
            f"{p['prefix_len']:,}",
            units.with_unit(p["density"], "density"),
            Bar(units.count(p["saved_tokens"]), p["saved_tokens"] / most),
            p.get("preview") or NOTHING,
        )
        for number, p in enumerate(prefixes[:_LISTED_PREFIXES], start=1)
    ]
    head: tuple[str, ...] = ("", "requests", "prefix tokens", "density", "tokens saved", "begins with")
    align, prose = "rrrrrl", True
    if not any(p.get("preview") for p in prefixes):  # prompts that were made up have no words
        rows, head, align, prose = [row[:-1] for row in rows], head[:-1], align[:-1], False
    first = Table(
        head=head,
        align=align,
        rows=rows[:_FIRST_PREFIXES],
        note="Tokens saved: prompt tokens that need not be computed again because requests share this "
        "prefix, without what an enclosing prefix saves.",
        prose=prose,
    )
    tables = [first]
    if len(rows) > _FIRST_PREFIXES:
        more = rows[_FIRST_PREFIXES:]
        tables.append(Table(head=head, align=align, rows=more, summary=f"{len(more)} more", prose=prose))
    colours = "Blue is denser than the whole job (more compute), orange less (more memory traffic)."
    chart = Chart(
        title="The prefix tree",
        caption="Each block is a prefix, as wide as the requests that begin with it and as deep as its "
        f"tokens; blocks below it share more. Wide and deep is where sharing pays. {colours if ends else ''}",
        spec=charts.prefix_map(ends),
        columns=columns,
        table=None,
        describes="Shared prefixes by requests and tokens",
        height=260,
    )
    lead = (
        f"{plan['unique_prompt_tokens']:,} of {plan['prompt_tokens']:,} prompt tokens are unique, so "
        f"{units.ratio(plan['sharing_possible'])} need not be computed. "
    )
    if len(prefixes) < plan.get("num_nodes", 0) - 1:
        lead += (
            f"Of {plan['num_nodes'] - 1:,} shared prefixes the {len(drawn)} that save most are drawn: "
            f"{units.ratio(covered / saved if saved else 1.0)} of what can be saved."
        )
    return Section(title="Shared prefixes", lead=lead, blocks=[chart, *tables])


def density_section(plan: dict[str, Any]) -> Section:
    """What there is to blend."""
    histogram = plan.get("density_histogram")
    if not histogram:
        return Section(title="Density of the requests")
    lowest = histogram["lowest"]
    compute_s, memory_s = (np.array(histogram[name]) for name in ("compute_s", "memory_s"))
    columns: Columns = {
        "a": [*lowest, *lowest],
        "b": [2 * value for value in lowest] * 2,
        "kind": ["compute"] * len(lowest) + ["KV reads"] * len(lowest),
        "seconds": rounded([*compute_s, *memory_s]),
        "y0": rounded([*np.zeros(len(lowest)), *compute_s]),
        "y1": rounded([*compute_s, *(compute_s + memory_s)]),
        "n": histogram["num_requests"] * 2,
    }
    rows: list[tuple[Cell, ...]] = [
        (f"{units.density(a)} to {units.density(2 * a)}", f"{n:,}", units.seconds(c), units.seconds(m))
        for a, n, c, m in zip(
            lowest, histogram["num_requests"], histogram["compute_s"], histogram["memory_s"], strict=True
        )
    ]
    chart = Chart(
        title="Compute and KV reads by density",
        caption="Modelled seconds of the planned work. With bars far on both sides of the dashed line there "
        "is something to blend; a single heap means that every order is about as good.",
        spec=charts.density_classes(
            plan.get("root_density"),
            lowest[0],
            2 * lowest[-1],
            max(float((compute_s + memory_s).max()), 1e-9),
        ),
        columns=columns,
        table=Table(
            head=("density", "requests", "compute", "KV reads"),
            align="lrrr",
            rows=rows,
            summary="The numbers",
        ),
        describes="Modelled seconds of compute and KV reads by density",
    )
    compute, memory = plan["compute_s"], plan["memory_s"]
    lead = (
        f"Compute density is compute time over KV read time; above 1 is compute-intensive. The job needs "
        f"{units.seconds(compute)} of compute and {units.seconds(memory)} of KV reads, modelled."
    )
    return Section(title="Density of the requests", lead=lead, blocks=[chart])
