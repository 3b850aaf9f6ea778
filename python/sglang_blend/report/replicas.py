"""How the replicas of a job shared it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sglang_blend.report import charts, units
from sglang_blend.report.charts import Series
from sglang_blend.report.page import Block, Card, Cards, Cell, Chart, Section, Table
from sglang_blend.report.records import JobRecord
from sglang_blend.report.scales import rounded, time_unit
from sglang_blend.scheduling.step_records import EngineSteps

_BINS = 240
_TABLE_ROWS = 24
# More lines than this cannot be told apart; then their range is drawn.
_MOST_LINES = 4


class _Running(NamedTuple):
    """Requests that run on one replica: (k,) seconds of the clock, and the number from then on."""

    at_s: np.ndarray[Any, Any]
    num_running: np.ndarray[Any, Any]


def replicas_section(job: JobRecord) -> Section:
    """What each replica did; nothing for a job on one engine."""
    title = "Replicas"
    facts = next((run.end["cluster"] for run in reversed(job.runs) if "cluster" in run.end), None)
    if facts is None:
        return Section(title=title)
    lead = (
        f"{facts['replicas']} engines shared the job, each with {facts['resources']}. A replica that had "
        "nothing left to do took whole units of the plan from another."
    )
    blocks: list[Block] = [_cards(facts), *_chart(job), _table(job, facts)]
    return Section(title=title, lead=lead, blocks=blocks)


def _cards(facts: dict[str, Any]) -> Cards:
    return Cards(
        [
            Card(
                "Imbalance", units.ratio(facts["imbalance"]), "",
                "When the last replica ended, over the mean of their ends, less 1: the share of the run that "
                "the mean replica waited for the slowest.",
            ),
            Card("Requests stolen", units.count(facts["stolen"]), f"in {facts['steals']} steals", ""),
            Card(
                "Sharing lost by the cut", units.ratio(facts["lost_ratio"]), "",
                "Prompt tokens that the parts compute beyond those of the uncut tree, over the latter; "
                "planned.",
            ),
            Card(
                "Moved",
                units.size(facts["sent_bytes"] + facts["received_bytes"]),
                f"and {units.size(facts['prompt_bytes'])} of token ids, once",
                "Requests and answers between this process and the replicas.",
            ),
        ]
    )  # fmt: skip


def _table(job: JobRecord, facts: dict[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for slot, place in enumerate(facts["places"]):
        engines = job.replicas[slot] if slot < len(job.replicas) else []
        sums = [
            sum(record[name] or 0.0 for engine in engines for record in engine.records)
            for name in ("prefill_tokens", "cached_tokens", "decode_tokens", "steps")
        ]
        began = "" if place["first_s"] is None else units.seconds(place["first_s"])
        rows.append(
            (
                str(slot),
                units.count(place["num_done"]),
                *(units.count(value) if engines else units.NOTHING for value in sums),
                began,
                units.seconds(place["last_s"]),
                units.count(place["num_retries"]),
                str(max(len(engines) - 1, 0)),
            )
        )
    head = (
        "replica", "answered", "prompt tokens computed", "from its cache", "decoded", "steps", "began",
        "ended", "sent again", "restarts",
    )  # fmt: skip
    return Table(
        head=head,
        align="r" * len(head),
        rows=rows,
        note="Tokens and steps are those that the replica could still tell; one that was killed takes its "
        "last second with it.",
    )


def _chart(job: JobRecord) -> list[Chart]:
    """Requests running on each replica, by one clock."""
    running = [_running(engines) for engines in job.replicas]
    known = [line for line in running if len(line.at_s)]
    if not known:
        return []
    begin, end = min(line.at_s[0] for line in known), max(line.at_s[-1] for line in known)
    if end <= begin:
        return []
    edges = np.linspace(begin, end, _BINS + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    sampled = np.array([_at(line, middle) for line in running])
    unit, scale = time_unit(end - begin)
    if len(running) <= _MOST_LINES:
        series = [Series(f"r{slot}", f"replica {slot}") for slot in range(len(running))]
        values = dict(zip((each.field for each in series), sampled, strict=True))
    else:
        series = [Series("high", "highest"), Series("mean", "mean"), Series("low", "lowest")]
        values = {"high": sampled.max(axis=0), "mean": sampled.mean(axis=0), "low": sampled.min(axis=0)}
    columns = {"t": rounded((edges[:-1] - begin) / scale)} | {
        name: rounded(column) for name, column in values.items()
    }
    every = _BINS // _TABLE_ROWS
    rows: list[tuple[Cell, ...]] = [
        (f"{columns['t'][place]:.4g}", *(units.count(float(values[each.field][place])) for each in series))
        for place in range(0, _BINS, every)
    ]
    return [
        Chart(
            title="Requests on each replica",
            caption="Requests that run at once. The replicas should thin out together: one that runs on "
            "alone at the end is what the others had to wait for.",
            spec=charts.over_time(
                series, y_title="requests", x_title=f"time, {unit}", duration=(end - begin) / scale
            ),
            columns=columns,
            table=Table(
                head=(f"time, {unit}", *(each.label for each in series)),
                align="l" + "r" * len(series),
                rows=rows,
                summary="The numbers",
            ),
            describes="Requests running on each replica over time",
            height=190,
        )
    ]


def _running(engines: list[EngineSteps]) -> _Running:
    """The engines of one replica one after the other; nothing runs between them."""
    at_s: list[float] = []
    num_running: list[float] = []
    for engine in engines:
        began = engine.header.get("started_at")
        if began is None or not engine.records:
            continue
        for record in engine.records:
            at_s.append(began + (record["t_s"] or 0.0))
            num_running.append(record["num_running"] or 0.0)
        at_s.append(at_s[-1])
        num_running.append(0.0)
    return _Running(np.array(at_s), np.array(num_running))


def _at(line: _Running, moments: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What runs at these moments; 0 before the first step."""
    place = np.searchsorted(line.at_s, moments, side="right") - 1
    return (
        np.where(place >= 0, line.num_running[np.maximum(place, 0)], 0.0) if len(line.at_s) else moments * 0.0
    )
