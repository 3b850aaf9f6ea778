"""The report of a job on several replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import orjson
import pytest

from report.sample_job import write_job
from sglang_blend.report.html import render
from sglang_blend.report.page import Chart, Section, Table
from sglang_blend.report.pages import job_page
from sglang_blend.report.records import read_job


def replicas_section(folder: Path, num_replicas: int) -> Section:
    output = write_job(folder)
    steps = (folder / "batch.steps.jsonl").read_bytes()
    for slot in range(1, num_replicas):
        (folder / f"batch.steps.jsonl.{slot}").write_bytes(steps)
    runs = folder / "batch.runs.jsonl"
    lines = [orjson.loads(line) for line in runs.read_bytes().splitlines()]
    places = [
        {"num_done": 50 + slot, "num_retries": slot, "first_s": 0.1, "last_s": 90.0 - slot}
        for slot in range(num_replicas)
    ]
    lines[-1]["end"]["cluster"] = cluster = {
        "replicas": num_replicas, "resources": "1 CPU, 2 GPU", "prompt_bytes": 4096, "sent_bytes": 10_000,
        "received_bytes": 20_000, "places": places, "imbalance": 0.125, "steals": 3, "stolen": 17,
        "lost_tokens": 12, "lost_ratio": 0.004,
    }  # fmt: skip
    runs.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    page = job_page(read_job(output))
    assert f"first of {cluster['replicas']} replicas" in page.notes[-1]
    assert "2 GPU" in render(page)
    return next(section for section in page.sections if section.title == "Replicas")


def table_of(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", [2, 12])
def test_every_replica_has_a_row_and_the_chart_its_lines(tmp_path: Path, num_replicas: int) -> None:
    section = replicas_section(tmp_path, num_replicas)
    rows = table_of(section).rows
    assert [row[0] for row in rows] == [str(slot) for slot in range(num_replicas)]
    assert [row[1] for row in rows] == [str(50 + slot) for slot in range(num_replicas)]
    assert len({row[4] for row in rows}) == 1, "they did the same steps"
    chart = next(block for block in section.blocks if isinstance(block, Chart))
    alt.Chart.from_dict(chart.spec)
    lines = set(chart.columns) - {"t"}
    assert lines == ({"r0", "r1"} if num_replicas == 2 else {"high", "mean", "low"})
    assert max(chart.columns[sorted(lines)[0]]) > 0


def test_a_replica_that_did_nothing_leaves_the_timeline_to_another(tmp_path: Path) -> None:
    replicas_section(tmp_path, 2)
    (tmp_path / "batch.steps.jsonl").unlink()
    job = read_job(tmp_path / "batch.output.jsonl")
    assert [len(engines) for engines in job.replicas] == [0, 1]
    assert job.engines == job.replicas[1]


def test_a_job_on_one_engine_has_no_such_section(tmp_path: Path) -> None:
    page: Any = job_page(read_job(write_job(tmp_path)))
    assert "Replicas" not in [section.title for section in page.sections]
