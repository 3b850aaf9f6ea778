"""A run whose engine died, or that answered nothing, is no measurement: it is refused, and says why."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from job.echo_engine import EchoEngine
from sglang_blend.bench import worker
from sglang_blend.bench.matrix import WorkerConfig
from sglang_blend.cli import bench
from sglang_blend.config import JobConfig
from sglang_blend.errors import EngineError


class MeasuredEngine(EchoEngine):
    """Counts nothing of what it does, and says so as the schedulers do."""

    async def server_info(self) -> list[dict[str, Any]]:
        zeros = (
            "cpu_s", "prefill_tokens", "steps", "prefill_steps", "decode_tokens", "num_decode_steps",
            "retracted", "recomputed_tokens", "busy_until_s", "waited_until_s", "policy_s",
        )  # fmt: skip
        return [{"blend": {"totals": dict.fromkeys(zeros, 0.0), "slowest_policy_s": 0.0, "cpu_s": 0.0}}]


def config_of(folder: Path, prompts: list[str], num_shuffles: int = 1) -> WorkerConfig:
    """A worker's, for a file with these prompts."""
    lines = (
        {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}}
        for i, prompt in enumerate(prompts)
    )
    file = folder / "batch.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return WorkerConfig(
        file=str(file),
        contenders=["fcfs"],
        num_shuffles=num_shuffles,
        first_shuffle=0,
        minutes=None,
        limit=None,
        window=None,
        num_warm_up=0,
        engine_argv=[],
    )


def run_on(engine: EchoEngine, config: WorkerConfig, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The runs of a worker on this engine."""
    jobs: list[JobConfig] = []

    def start(argv: list[str], job: JobConfig, log: Path) -> EchoEngine:
        jobs.append(job)
        return engine

    monkeypatch.setattr(worker, "start_engine", start)
    try:
        runs: list[dict[str, Any]] = worker.run_all(config)["runs"]
        return runs
    finally:
        assert engine.stopped
        assert [job.max_restarts for job in jobs] == [0], "another engine would not be the one measured"


def test_an_engine_that_answers_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed beside that is counted, for the reader to judge."""
    config = config_of(tmp_path, ["one two", "three", "refuse this", "crash"], num_shuffles=2)
    runs = run_on(MeasuredEngine(), config, monkeypatch)
    assert [(run["shuffle"], run["ok"], run["failed"]) for run in runs] == [(0, 2, 2), (1, 2, 2)]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("crash", "the engine died at this request"),
        ("refuse", "status 400.*refused by the engine"),
    ],
)
def test_a_run_in_which_all_requests_failed_is_refused(
    prompt: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words of the first failure."""
    config = config_of(tmp_path, [prompt] * 3)
    with pytest.raises(EngineError, match=f"fcfs: all 3 requests failed; {words}"):
        run_on(MeasuredEngine(), config, monkeypatch)


def test_an_engine_that_dies_in_a_later_run_takes_the_earlier_ones_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it measured before, nobody knows to be sound."""
    config = config_of(tmp_path, ["one", "two"], num_shuffles=2)
    with pytest.raises(EngineError, match="the engine died"):
        run_on(MeasuredEngine(dies_after=3), config, monkeypatch)


def test_the_worker_leaves_no_report_of_a_run_that_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with the exit code of the error."""
    given, found = tmp_path / "config.json", tmp_path / "report.json"
    given.write_bytes(orjson.dumps(config_of(tmp_path, ["crash"]).to_json()))
    monkeypatch.setattr(worker, "start_engine", lambda argv, job, log: MeasuredEngine())
    monkeypatch.setattr("sys.argv", ["worker", str(given), str(found)])
    assert worker.main() == EngineError("").exit_code != 0
    assert "all 1 requests failed" in capsys.readouterr().err
    assert not found.exists()


@pytest.mark.parametrize("code", [2, -9, 0], ids=["refused", "killed", "without a report"])
def test_the_command_takes_no_report_of_a_worker_that_failed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its exit code is, when there is no report."""
    done = subprocess.CompletedProcess[bytes]([], code)
    monkeypatch.setattr("sglang_blend.cli.bench.subprocess.run", lambda *args, **kwargs: done)
    with pytest.raises(EngineError, match=rf"the engine for fcfs failed \(exit code {code}\)"):
        bench._run_worker(config_of(tmp_path, ["one"]))


def test_the_command_takes_no_report_that_a_failing_worker_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died after it wrote some of it."""

    def die_late(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
        Path(command[-1]).write_bytes(b'{"runs": [], "tree_minimum_prompt_tokens": 0}')
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("sglang_blend.cli.bench.subprocess.run", die_late)
    with pytest.raises(EngineError, match="exit code 1"):
        bench._run_worker(config_of(tmp_path, ["one"]))
