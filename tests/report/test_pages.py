"""What stands in a report: everything is escaped, every chart has its numbers, nothing hides that it is "
"simulated."""

import json
import logging
import re
import subprocess
from pathlib import Path

import altair as alt
import pytest

from report.sample_job import NASTY, write_job
from sglang_blend.cli import main
from sglang_blend.report.at_end import make_report
from sglang_blend.report.bundle import javascript
from sglang_blend.report.compare import compare_page
from sglang_blend.report.html import render
from sglang_blend.report.page import Chart, Page, Pair, Table
from sglang_blend.report.pages import job_page
from sglang_blend.report.records import read_job


def charts_of(page: Page) -> list[Chart]:
    found = []
    for section in page.sections:
        for block in section.blocks:
            blocks = (block.left, block.right) if isinstance(block, Pair) else (block,)
            found += [each for each in blocks if isinstance(each, Chart)]
    return found


def test_every_section_is_there_and_every_chart_has_its_numbers(tmp_path: Path) -> None:
    page = job_page(read_job(write_job(tmp_path)))
    assert [section.title for section in page.sections] == [
        "Summary", "Over time", "Output lengths", "Latency", "Shared prefixes", "Density of the requests",
        "Failures", "Phases", "Configuration",
    ]  # fmt: skip
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Chart) and block.table is None:
                assert any(isinstance(other, Table) for other in section.blocks), block.title
    titles = [chart.title for chart in charts_of(page)]
    assert titles[:6] == [
        "Compute and memory use",
        "KV memory",
        "Running density",
        "Division of the GPU",
        "Requests",
        "Throughput",
    ]


@pytest.mark.slow
def test_specifications_are_valid_vega_lite_and_hold_no_text_of_a_user(tmp_path: Path) -> None:
    for chart in charts_of(job_page(read_job(write_job(tmp_path, num_engines=3)))):
        alt.Chart.from_dict(chart.spec)
        assert "owned" not in json.dumps(chart.spec)
        lengths = {len(column) for column in chart.columns.values()}
        assert len(lengths) == 1, chart.title


def test_no_text_of_a_user_becomes_markup(tmp_path: Path) -> None:
    """The texts of a user are in names, models, flags, prompts, error codes and messages."""
    text = render(job_page(read_job(write_job(tmp_path)))).replace(javascript(), "")
    assert text.count("owned") >= 8
    assert NASTY not in text
    assert "<img" not in text
    assert text.count("<script") == text.count("</script>") == 4


@pytest.mark.slow
def test_long_timelines_are_thinned_and_say_so(tmp_path: Path) -> None:
    page = job_page(read_job(write_job(tmp_path, num_steps=5000)))
    (section,) = [section for section in page.sections if section.title == "Over time"]
    assert "5,000 steps" in section.lead
    assert "400 means" in section.lead
    assert all(len(chart.columns["t"]) == 401 for chart in charts_of(page) if "t" in chart.columns)


@pytest.mark.slow
def test_a_comparison_pairs_charts_on_equal_axes(tmp_path: Path) -> None:
    slow = read_job(write_job(tmp_path, step_s=0.2, stem="slow"))
    fast = read_job(write_job(tmp_path, stem="fast"))
    page = compare_page(slow, fast)
    (figures,) = [section.blocks[0] for section in page.sections if section.title == "Figures"]
    assert isinstance(figures, Table)
    (makespan,) = [row for row in figures.rows if row[0] == "Makespan"]
    assert makespan[1:3] == ("180 s", "90.0 s")
    assert (makespan[3].text, makespan[3].good) == ("0.5", True)  # type: ignore[union-attr]
    pairs = [block for section in page.sections for block in section.blocks if isinstance(block, Pair)]
    assert len(pairs) == 7
    for pair in pairs:
        assert isinstance(pair.left, Chart)
        assert isinstance(pair.right, Chart)
        domains = [
            re.findall(r'"domain": \[0, [\d.]+\]', json.dumps(side.spec)) for side in (pair.left, pair.right)
        ]
        assert domains[0] == domains[1] != []


@pytest.mark.slow
def test_a_simulated_run_says_so_and_so_does_a_plan(tmp_path: Path) -> None:
    html = tmp_path / "sim.html"
    job = [
        "--density",
        "1.1",
        "--sharing",
        "0.3",
        "--num-requests",
        "300",
        "--lengths",
        "known",
    ]
    assert main(["simulate", *job, "--orders", "dual-scan", "--modes", "overlap", "--html", str(html)]) == 0
    text = html.read_text()
    assert '<span class="simulated">SIMULATED</span>' in text
    assert "nothing on this page was measured" in text
    assert "memory-intensive" in text, "both sides of the dual scan"
    assert "Division of the GPU" not in text, "nothing is divided"
    assert main(["simulate", *job, "--orders", "dfs,fcfs", "--modes", "overlap", "--html", str(html)]) == 0
    assert "Comparison (A and B simulated)" in html.read_text()


def test_more_than_two_simulated_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["--density", "1.1", "--sharing", "0.3", "--num-requests", "50", "--html", str(tmp_path / "x.html")]
    assert main(["simulate", *job, "--orders", "dfs,fcfs"]) == 2
    assert "these are 8" in capsys.readouterr().err


def test_a_plan_has_a_price_when_an_hour_has_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"custom_id": NASTY, "method": "POST", "url": "/v1/completions", "body": {"prompt": NASTY * 9}}
    batch, html = tmp_path / "batch.jsonl", tmp_path / "plan.html"
    lines = [json.dumps(line | {"custom_id": f"{i} {NASTY}"}) for i in range(3)]
    batch.write_text("".join(f"{each}\n" for each in lines))
    command = ["plan", "--file", str(batch), "--html", str(html), "--tp-size", "2"]
    assert main([*command, "--price-per-hour", "4000"]) == 0
    (cost,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("cost ")]
    text = html.read_text()
    assert "Cost estimate" in text
    assert "2 x 4,000.00 an hour" in text
    assert float(cost.split()[1]) > 0
    assert NASTY not in text
    assert "owned" in text, "the prefix that all three share"
    assert main(command) == 0
    assert "Cost estimate" not in html.read_text()
    assert main([*command, "--price-per-hour", "-1"]) == 2


@pytest.mark.slow
def test_the_command_writes_beside_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = write_job(tmp_path)
    assert main(["report", str(output)]) == 0
    assert (tmp_path / "batch.report.html").exists()
    assert main(["report", str(output), "--compare", str(output)]) == 0
    assert (tmp_path / "batch.compare.html").exists()
    assert main(["report", str(output), "--html", str(tmp_path / "absent" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_makes_its_report_in_a_process_that_may_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("sglang_blend"), "propagate", True)
    output, html = write_job(tmp_path), tmp_path / "batch.report.html"
    summary = str(tmp_path / "batch.summary.json")
    assert make_report(str(output), summary, html)
    assert html.stat().st_size < 5e6
    with caplog.at_level(logging.WARNING):
        assert not make_report(str(output), str(tmp_path / "absent.json"), html)
        assert not make_report(str(output), summary, html, timeout_s=0.01)
        monkeypatch.setattr(subprocess, "run", _interrupted)
        assert not make_report(str(output), summary, html)
    said = {record.getMessage() for record in caplog.records}
    assert [words[:10] for words in said] == ["No report:"] * 3


def _interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt
