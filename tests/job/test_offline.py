"""One job from file to summary, on an engine that echoes: every line ends as exactly one record."""

import dataclasses
import json
import os
import random
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from job.echo_engine import EchoEngine
from job.local_files import local_files
from sglang_blend.config import JobConfig
from sglang_blend.errors import ConfigError, EngineError, InputError
from sglang_blend.job import batch_file, body_check
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.stop import Stop
from sglang_blend.request import BatchLine, Prepared, Rejection


def batch_line(custom_id: str, prompt: object, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": prompt} | body,
    }


def write_batch(path: Path, lines: list[dict[str, Any]]) -> JobConfig:
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return JobConfig(file=path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@pytest.fixture
def groups(tmp_path: Path) -> JobConfig:
    """Forty requests, shuffled: five groups of eight that share three words."""
    lines = [batch_line(f"g{g}-{i}", f"group {g} prefix {i}") for g in range(5) for i in range(8)]
    random.Random(0).shuffle(lines)
    return write_batch(tmp_path / "batch.jsonl", lines)


def test_every_request_is_answered_once_and_groups_run_together(groups: JobConfig) -> None:
    engine = EchoEngine()
    summary = OfflineJob(groups).run(lambda: engine)
    files = local_files(groups)
    assert sorted(r["custom_id"] for r in read(files.output)) == sorted(
        f"g{g}-{i}" for g in range(5) for i in range(8)
    )
    assert files.error_file.read_bytes() == b""
    asked_groups = [custom_id[:2] for custom_id in engine.asked]
    assert sum(a != b for a, b in pairwise(asked_groups)) == 4
    assert (summary.ok, summary.failed, summary.complete) == (40, 0, True)
    assert summary.prompt_tokens == 40 * 4
    # 5 * (group, number, prefix) + 40 last words, with "group" shared by all: 1 + 5 * 2 + 40 unique words.
    assert summary.sharing_possible == pytest.approx(1 - 51 / 160)
    assert engine.stopped


def test_the_summary_file_says_what_was_returned(groups: JobConfig) -> None:
    summary = OfflineJob(groups).run(EchoEngine)
    assert json.loads(local_files(groups).summary_file.read_text()) == json.loads(
        orjson.dumps(summary.to_json())
    )


def test_each_line_is_checked_once(groups: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again to be prepared, and again to be run."""
    checked: list[str] = []

    def check(url: str, body: dict[str, Any]) -> Any:
        checked.append(body["prompt"])
        return body_check.check_body(url, body)

    monkeypatch.setattr(batch_file, "check_body", check)
    assert OfflineJob(groups).run(EchoEngine).ok == 40
    assert len(checked) == len(set(checked)) == 40


def test_no_more_requests_are_in_flight_than_the_window(tmp_path: Path) -> None:
    lines = [batch_line(str(i), f"word {i}") for i in range(50)]
    write_batch(tmp_path / "b.jsonl", lines)
    engine = EchoEngine()
    OfflineJob(JobConfig(file=tmp_path / "b.jsonl", window=7)).run(lambda: engine)
    assert engine.most_at_once == 7


def test_bad_lines_bad_bodies_and_refusals_are_errors_and_the_rest_is_answered(tmp_path: Path) -> None:
    config = write_batch(
        tmp_path / "b.jsonl",
        [
            batch_line("good", "one two"),
            batch_line("no prompt", 5),
            batch_line("late", "refuse me"),
            batch_line("good", "again"),
            {"custom_id": "no url"},
        ],
    )
    summary = OfflineJob(config).run(EchoEngine)
    files = local_files(config)
    assert [r["custom_id"] for r in read(files.output)] == ["good"]
    codes = {r["custom_id"]: r["response"]["body"]["error"]["code"] for r in read(files.error_file)}
    assert codes == {
        "no prompt": "invalid_type",
        "late": "invalid_value",
        "good": "duplicate_custom_id",
        "no url": "missing_required_parameter",
    }
    assert (summary.ok, summary.failed, summary.not_run) == (1, 4, 0)


def test_a_job_without_one_good_line_starts_no_engine(tmp_path: Path) -> None:
    config = write_batch(tmp_path / "b.jsonl", [{"custom_id": "x"}])

    def start() -> EchoEngine:
        raise AssertionError("the engine was started for nothing")

    summary = OfflineJob(config).run(start)
    assert (summary.ok, summary.failed, summary.complete) == (0, 1, True)


def test_requests_of_different_adapters_share_no_prefix(tmp_path: Path) -> None:
    lines = [
        batch_line("a", "same words here", lora_path="x"),
        batch_line("b", "same words here", lora_path="y"),
    ]
    summary = OfflineJob(write_batch(tmp_path / "b.jsonl", lines)).run(EchoEngine)
    assert summary.sharing_possible == 0


def test_a_dead_engine_keeps_what_had_finished(groups: JobConfig) -> None:
    job = OfflineJob(JobConfig(file=groups.file, window=1))
    with pytest.raises(EngineError, match="died"):
        job.run(lambda: EchoEngine(dies_after=11))
    files = local_files(groups)
    assert len(read(files.output)) == 11
    summary = json.loads(files.summary_file.read_text())
    assert (summary["ok"], summary["not_run"], summary["complete"]) == (11, 29, False)


def test_a_request_that_kills_the_engine_is_an_error_without_a_response(tmp_path: Path) -> None:
    config = write_batch(tmp_path / "b.jsonl", [batch_line("a", "crash"), batch_line("b", "fine")])
    summary = OfflineJob(config).run(EchoEngine)
    (record,) = read(local_files(config).error_file)
    assert record["custom_id"] == "a"
    assert record["response"] is None
    assert record["error"]["code"] == "engine_crash"
    assert (summary.ok, summary.failed_by_code, summary.complete) == (1, {"engine_crash": 1}, True)
    assert (summary.num_restarts, summary.num_retries) == (2, 3)


def kill_at(*counts: int, signum: signal.Signals = signal.SIGTERM) -> EchoEngine:
    """An engine at whose n-th request this process gets a signal."""
    return EchoEngine(on_answer=lambda n: os.kill(os.getpid(), signum) if n in counts else None)


def test_the_first_signal_lets_requests_in_flight_finish(groups: JobConfig) -> None:
    with Stop() as stop:
        summary = OfflineJob(dataclasses.replace(groups, window=4), stop).run(lambda: kill_at(11))
    assert summary.stopped_by == "SIGTERM"
    assert not summary.complete
    assert 11 <= summary.ok <= 15
    assert summary.not_run == 40 - summary.ok
    assert len(read(local_files(groups).output)) == summary.ok


def test_draining_ends_after_its_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is given up is counted, and how it could have been waited for."""
    caplog.set_level("INFO")
    lines = [batch_line("a", "fine"), batch_line("b", "sleep")]
    config = dataclasses.replace(write_batch(tmp_path / "b.jsonl", lines), drain_timeout=0.1, order="fcfs")
    with Stop() as stop:
        summary = OfflineJob(config, stop).run(lambda: kill_at(2))
    assert (summary.ok, summary.not_run) == (1, 1)
    assert "is given up: 1 request, for the same command to run again (--drain-timeout" in caplog.text
    assert "1 answer in " in caplog.text


def test_one_line_is_not_told_as_several(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    OfflineJob(write_batch(tmp_path / "b.jsonl", [batch_line("a", "fine")])).run(EchoEngine)
    assert "1 line, 0 finished earlier, 0 refused, 1 request to run." in caplog.text
    assert "running: 1 of 1 request, " in caplog.text


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    lines = [batch_line("a", "fine"), batch_line("b", "sleep"), batch_line("c", "sleep")]
    config = dataclasses.replace(write_batch(tmp_path / "b.jsonl", lines), order="fcfs")
    with Stop() as stop:
        summary = OfflineJob(config, stop).run(lambda: kill_at(2, 3, signum=signal.SIGINT))
    assert summary.stopped_by == "SIGINT"
    assert (summary.ok, summary.not_run) == (1, 2)
    assert summary.wall_s < 10


def test_a_signal_at_the_last_request_still_completes_the_job(groups: JobConfig) -> None:
    with Stop() as stop:
        summary = OfflineJob(groups, stop).run(lambda: kill_at(40))
    assert (summary.ok, summary.complete, summary.stopped_by) == (40, True, None)


def test_a_signal_while_requests_are_prepared_leaves_no_files(groups: JobConfig) -> None:
    class Preparing(EchoEngine):
        def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().prepare(lines)

    engine = Preparing()
    with Stop() as stop:
        summary = OfflineJob(groups, stop).run(lambda: engine)
    assert (summary.ok, summary.not_run, summary.stopped_by) == (0, 40, "SIGTERM")
    assert engine.stopped
    files = local_files(groups)
    assert not any(path.exists() for path in (files.output, files.error_file, files.summary_file))


def test_an_engine_that_cannot_start_leaves_no_files(groups: JobConfig) -> None:
    def start() -> EchoEngine:
        raise ConfigError("no such flag")

    with pytest.raises(ConfigError, match="no such flag"):
        OfflineJob(groups).run(start)
    files = local_files(groups)
    assert not any(path.exists() for path in (files.output, files.error_file, files.summary_file))


def refuse_flags() -> EchoEngine:
    raise ConfigError("no such flag")


def test_flags_that_are_refused_lock_nothing_and_leave_no_folder(tmp_path: Path) -> None:
    lines = [batch_line("good", "one two"), {"custom_id": "refused without an engine"}]
    config = replace(write_batch(tmp_path / "b.jsonl", lines), output=tmp_path / "new" / "folder" / "o.jsonl")
    with pytest.raises(ConfigError, match="no such flag"):
        OfflineJob(config, engine_argv=["--seed", "1"]).run(refuse_flags)
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]
    summary = OfflineJob(config, engine_argv=["--seed", "2"]).run(EchoEngine)
    assert (summary.ok, summary.failed) == (1, 1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_refusal_changes_nothing_of_a_finished_job(groups: JobConfig) -> None:
    OfflineJob(groups).run(EchoEngine)
    files = local_files(groups)
    for path in (files.report_file, files.steps_file):
        path.write_text("kept")
    before = contents(local_files(groups).output.parent)
    with pytest.raises(ConfigError, match="another job"):
        OfflineJob(groups, engine_argv=["--tool-call-parser", "qwen25"]).run(EchoEngine)
    assert contents(local_files(groups).output.parent) == before
    with pytest.raises(ConfigError, match="no such flag"):
        OfflineJob(replace(groups, overwrite=True)).run(refuse_flags)
    assert contents(local_files(groups).output.parent) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"question,answer\nwhy,because\nhow,so\n", "no line that is a JSON object"),
        (b'[1]\n"text"\n\n', "no line that is a JSON object"),
        (
            b'{"instruction": "x", "input": "y"}\n{"instruction": "z"}\n',
            "name one of instruction, input with --prompt-column",
        ),
        (
            b'{"url": "http://x", "text": "y"}\n',
            "name one of text with --prompt-column",
        ),
    ],
)
def test_an_input_of_another_kind_is_refused_as_a_whole(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        OfflineJob(JobConfig(file=path, output=tmp_path / "new" / "o.jsonl")).run(EchoEngine)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_one_line_of_a_batch_file_makes_the_others_its_bad_lines(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('question,answer\n{"custom_id": "x"}\n')
    assert OfflineJob(JobConfig(file=tmp_path / "b.jsonl")).run(EchoEngine).failed == 2


def test_overwrite_starts_anew(groups: JobConfig) -> None:
    OfflineJob(groups).run(EchoEngine)
    engine = EchoEngine()
    OfflineJob(replace(groups, overwrite=True)).run(lambda: engine)
    assert len(engine.asked) == len(read(local_files(groups).output)) == 40


def test_output_and_error_file_must_be_two_files(groups: JobConfig, tmp_path: Path) -> None:
    same = tmp_path / "o.jsonl"
    with pytest.raises(ConfigError, match="two files"):
        OfflineJob(JobConfig(file=groups.file, output=same, error_file=same)).run(EchoEngine)


def test_the_input_is_never_the_output(groups: JobConfig) -> None:
    config = JobConfig(file=groups.file, output=groups.file, overwrite=True)
    with pytest.raises(ConfigError, match="is the batch file"):
        OfflineJob(config).run(EchoEngine)
    assert len(Path(str(groups.file)).read_bytes().splitlines()) == 40


def test_a_check_that_fails_leaves_no_files(groups: JobConfig) -> None:
    def check() -> None:
        raise InputError("not today")

    with pytest.raises(InputError, match="not today"):
        OfflineJob(groups).run(EchoEngine, check=check)
    assert not local_files(groups).output.exists()


@pytest.mark.parametrize(
    ("file", "output", "expected"),
    [
        ("d/batch.jsonl", None, ("d/batch.output.jsonl", "d/batch.errors.jsonl", "d/batch.summary.json")),
        ("d/b.jsonl.gz", None, ("d/b.output.jsonl", "d/b.errors.jsonl", "d/b.summary.json")),
        ("b.jsonl", "out/o.jsonl", ("out/o.jsonl", "out/o.errors.jsonl", "out/o.summary.json")),
    ],
)
def test_result_files_stand_beside_the_input_or_the_output(
    file: str, output: str | None, expected: tuple[str, str, str]
) -> None:
    files = local_files(JobConfig(file=Path(file), output=Path(output) if output else None))
    assert (str(files.output), str(files.error_file), str(files.summary_file)) == expected
