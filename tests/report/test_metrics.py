"""The figures of a report, by hand."""

from pathlib import Path

import numpy as np
import pytest

from report.sample_job import POOL, write_job
from sglang_blend.errors import InputError
from sglang_blend.report.metrics import Metrics
from sglang_blend.report.records import JobRecord, Run, read_job
from sglang_blend.report.timeline import make_timeline


def metrics_of(output: Path) -> Metrics:
    job = read_job(output)
    return Metrics(job, make_timeline(job.engines))


def test_the_headline_of_a_job_is_arithmetic_on_its_records(tmp_path: Path) -> None:
    metrics = metrics_of(write_job(tmp_path))
    figures = {figure.name: figure.value for figure in metrics.headline()}
    assert figures["Makespan"] == pytest.approx(90)
    assert figures["Throughput"] == pytest.approx(110_000 / 90)
    assert figures["Of the optimum"] == pytest.approx(40 / 90)
    assert figures["Predicted makespan"] == 80
    assert figures["Sharing kept"] == pytest.approx(0.75 / metrics.job.plan["sharing_possible"])
    engine = {figure.name: figure.value for figure in metrics.engine()}
    assert engine["Compute use"] == pytest.approx(0.5, abs=0.05)
    assert engine["KV pool in use"] == pytest.approx(0.7, abs=0.05)
    assert engine["Retractions"] == 3
    assert engine["Tail"] is not None
    assert engine["Tail share"] == pytest.approx(engine["Tail"] / 90)
    assert metrics.timeline is not None
    assert metrics.timeline.kv_pool_tokens == POOL


def test_a_resumed_job_adds_up_its_runs() -> None:
    run = Run(
        plan={"requests": 10, "bounds": {"optimum_s": 3.0}, "predicted": {"makespan_s": 5.0}},
        end={"seconds": {"generate": 6.0}, "prompt_tokens": 100, "output_tokens": 20, "schedulers": []},
    )
    summary = {"prompt_tokens": 500, "cached_tokens": 100, "output_tokens": 60, "sharing_possible": 0.4}
    job = JobRecord(name="x", summary=summary, runs=[run, run, Run()], engines=[], failures=[])
    metrics = Metrics(job, None)
    assert (metrics.makespan_s, metrics.optimum_s) == (12.0, 6.0)
    assert metrics.throughput == 240 / 12
    assert metrics.predicted_s is None, "one of the runs was killed before it could say"
    assert metrics.sharing_kept == pytest.approx(0.5)


def test_length_errors_count_only_requests_with_an_expectation() -> None:
    sample = {"est_output_len": [None, 10, 20, 30], "output_len": [5, 20, 20, 15]}
    job = JobRecord(name="x", summary={}, runs=[Run(requests={"sample": sample})], engines=[], failures=[])
    error = Metrics(job, None).length_error
    assert error is not None
    assert error.num_requests == 3
    assert error.mean_error == pytest.approx((10 + 0 + 15) / 3)
    assert error.bias == pytest.approx((-10 + 0 + 15) / 3)
    assert error.under_ratio == pytest.approx(1 / 3)
    assert error.total_ratio == pytest.approx(60 / 55)


def test_latencies_come_with_the_longest_of_all_requests(tmp_path: Path) -> None:
    metrics = metrics_of(write_job(tmp_path))
    figures = {figure.name: figure.value or 0 for figure in metrics.latency()}
    assert figures["p50"] == pytest.approx(np.median(metrics.latencies_s))
    assert figures["p50"] < figures["p90"] < figures["p99"] <= figures["Longest"] + 1e-3


def test_failures_are_counted_by_reason_with_an_example(tmp_path: Path) -> None:
    job = read_job(write_job(tmp_path))
    assert [failures.num_lines for failures in job.failures] == [5, 2]
    assert job.failures[0].example.startswith("Line 3: ")
    assert (job.failures[1].code, job.failures[1].example, job.failures[1].line) == ("engine_crash", "", None)


def test_a_job_is_found_by_its_batch_file_too(tmp_path: Path) -> None:
    write_job(tmp_path)
    assert read_job(tmp_path / "batch.jsonl").summary["ok"] == 200


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    output = write_job(tmp_path)
    (tmp_path / "batch.steps.jsonl").unlink()
    (tmp_path / "batch.runs.jsonl").unlink()
    assert len(read_job(output).notes) == 2
    (tmp_path / "batch.summary.json").unlink()
    with pytest.raises(InputError, match=r"batch\.summary\.json is not there"):
        read_job(output)
