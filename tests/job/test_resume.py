"""Going on after any kind of end: nothing finished is lost, nothing is answered twice."""

import contextlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job.echo_engine import EchoEngine
from job.local_files import local_files
from job.test_offline import batch_line, read, write_batch
from sglang_blend.config import JobConfig
from sglang_blend.errors import ConfigError, EngineError, InputError
from sglang_blend.job.offline import OfflineJob
from sglang_blend.request import BatchLine, Prepared, Rejection


def mixed_lines(num_lines: int, seed: int = 0) -> list[bytes]:
    """Good lines, and one of each kind that fails: by itself, by a repeated custom_id, in the engine."""
    lines: list[bytes] = []
    for i in range(num_lines):
        kind = random.Random(f"{seed} {i}").random()
        line: dict[str, Any] = batch_line(f"r{i}", f"the group {i % 7} asks {i}")
        if kind < 0.05:
            line["custom_id"] = "r0"
        elif kind < 0.1:
            line["body"]["prompt"] = f"refuse {i}"
        elif kind < 0.15:
            lines.append(b'{"broken %d' % i)
            continue
        elif kind < 0.2:
            line["method"] = "GET"
        lines.append(orjson.dumps(line))
    return lines


def write_lines(path: Path, lines: list[bytes]) -> JobConfig:
    path.write_bytes(b"\n".join(lines))
    return JobConfig(file=path)


def records(config: JobConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    files = local_files(config)
    return read(files.output), read(files.error_file)


def check_one_record_a_line(config: JobConfig, lines: list[bytes]) -> None:
    """Each line has one record, in the right file and about the right line."""
    answers, errors = records(config)
    wanted_answers, wanted_errors, seen = {}, set(), set()
    for number, line in enumerate(lines, start=1):
        try:
            request = json.loads(line)
        except json.JSONDecodeError:
            wanted_errors.add((number, "invalid_json_line"))
            continue
        first = request["custom_id"] not in seen
        seen.add(request["custom_id"])
        if request["method"] != "POST":
            wanted_errors.add((number, "invalid_method"))
        elif not first:
            wanted_errors.add((number, "duplicate_custom_id"))
        elif "refuse" in request["body"]["prompt"]:
            wanted_errors.add((number, "invalid_value"))
        else:
            wanted_answers[request["custom_id"]] = request["body"]["prompt"].split()[-1]
    assert len(answers) == len(wanted_answers)
    assert {r["custom_id"]: r["response"]["body"]["echo"] for r in answers} == wanted_answers
    found = [(e["line"], e["code"]) for e in (r["response"]["body"]["error"] for r in errors)]
    assert len(found) == len(wanted_errors)
    assert set(found) == wanted_errors


def never_started() -> EchoEngine:
    raise AssertionError("the engine was started for nothing")


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    """Thirty good lines."""
    return write_batch(tmp_path / "b.jsonl", [batch_line(f"r{i}", f"word {i}") for i in range(30)])


def stop_after(config: JobConfig, num_answers: int) -> None:
    with pytest.raises(EngineError):
        OfflineJob(replace(config, window=1)).run(lambda: EchoEngine(dies_after=num_answers))


def test_the_next_run_asks_only_for_what_is_missing(job: JobConfig) -> None:
    stop_after(job, 11)
    engine = EchoEngine()
    summary = OfflineJob(job).run(lambda: engine)
    answers, _ = records(job)
    assert len(engine.asked) == 19
    assert sorted(r["custom_id"] for r in answers) == sorted(f"r{i}" for i in range(30))
    assert (summary.ok, summary.resumed_ok, summary.not_run, summary.complete) == (30, 11, 0, True)


def test_a_finished_job_starts_no_engine_and_says_the_same(job: JobConfig) -> None:
    first = OfflineJob(job).run(EchoEngine)
    before = [path.read_bytes() for path in (local_files(job).output, local_files(job).summary_file)]
    again = OfflineJob(job).run(never_started)
    assert (again.ok, again.failed, again.prompt_tokens) == (first.ok, first.failed, first.prompt_tokens)
    assert (again.resumed_ok, again.run_tokens) == (30, 0)
    assert before == [p.read_bytes() for p in (local_files(job).output, local_files(job).summary_file)]


def test_a_finished_job_is_not_read_again_where_nothing_changed(
    job: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    OfflineJob(job).run(EchoEngine)
    monkeypatch.setattr("sglang_blend.job.line_index.LineIndex.build", never_started)
    OfflineJob(job).run(never_started)


def test_a_copied_input_is_still_the_same_job(job: JobConfig) -> None:
    OfflineJob(job).run(EchoEngine)
    assert isinstance(job.file, Path)
    content = job.file.read_bytes()
    job.file.unlink()
    job.file.write_bytes(content)
    assert OfflineJob(job).run(never_started).ok == 30


def test_a_torn_last_line_is_cut_and_its_request_runs_again(job: JobConfig) -> None:
    stop_after(job, 11)
    output = local_files(job).output
    assert isinstance(output, Path)
    content = output.read_bytes()
    output.write_bytes(content[:-20])
    engine = EchoEngine()
    OfflineJob(job).run(lambda: engine)
    assert len(engine.asked) == 20
    assert len({r["custom_id"] for r in records(job)[0]}) == 30


def test_lines_that_a_power_cut_left_as_zeros_are_taken_out(job: JobConfig) -> None:
    stop_after(job, 11)
    output = local_files(job).output
    assert isinstance(output, Path)
    lines = output.read_bytes().splitlines(keepends=True)
    lines[4] = b"\0" * (len(lines[4]) - 1) + b"\n"
    output.write_bytes(b"".join(lines))
    engine = EchoEngine()
    OfflineJob(job).run(lambda: engine)
    assert len(engine.asked) == 20
    assert len({r["custom_id"] for r in records(job)[0]}) == len(records(job)[0]) == 30


def test_a_record_that_stands_twice_or_is_of_no_line_is_taken_out(job: JobConfig) -> None:
    stop_after(job, 11)
    output = local_files(job).output
    assert isinstance(output, Path)
    lines = output.read_bytes().splitlines(keepends=True)
    foreign = lines[0].replace(b'"custom_id":"r', b'"custom_id":"other r')
    output.write_bytes(b"".join([foreign, *lines, lines[3]]))
    assert OfflineJob(job).run(EchoEngine).ok == 30
    assert sorted(r["custom_id"] for r in records(job)[0]) == sorted(f"r{i}" for i in range(30))


def test_another_input_is_another_job(job: JobConfig) -> None:
    OfflineJob(job).run(EchoEngine)
    write_batch(Path(str(job.file)), [batch_line("other", "words")])
    before = local_files(job).output.read_bytes()
    with pytest.raises(ConfigError, match=r"another job \(the input has another content\).*--overwrite"):
        OfflineJob(job).run(never_started)
    assert local_files(job).output.read_bytes() == before


def test_a_job_that_may_not_touch_results_leaves_every_one_of_them(tmp_path: Path) -> None:
    config = write_batch(tmp_path / "b.jsonl", [{"custom_id": "all lines are bad"}])
    OfflineJob(config).run(never_started)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "b.jsonl"}
    assert before["b.output.jsonl"] == b""
    write_batch(tmp_path / "b.jsonl", [batch_line("other", "words")])
    with pytest.raises(ConfigError, match="another job"):
        OfflineJob(config).run(never_started)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "b.jsonl"} == before


def test_flags_that_change_answers_make_another_job_and_others_do_not(job: JobConfig) -> None:
    OfflineJob(job, engine_argv=["--model-path", "a/b", "--tp-size", "2"]).run(EchoEngine)
    with pytest.raises(ConfigError, match="--model-path was a/b and is a/c"):
        OfflineJob(job, engine_argv=["--model-path", "a/c"]).run(never_started)
    with pytest.raises(ConfigError, match="--chat-template was not given and is x"):
        OfflineJob(job, engine_argv=["--model-path", "a/b", "--chat-template", "x"]).run(never_started)
    OfflineJob(job, engine_argv=["--model=a/b", "--tp-size=4", "--mem-fraction-static", "0.7"]).run(
        never_started
    )


def test_a_model_replaced_in_place_is_another_model(job: JobConfig, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(300_000))
    OfflineJob(job, engine_argv=["--model-path", str(model)]).run(EchoEngine)
    (model / "model.safetensors").write_bytes(bytes(150_000) + b"\1" + bytes(149_999))
    with pytest.raises(ConfigError, match="--model-path was"):
        OfflineJob(job, engine_argv=["--model-path", str(model)]).run(never_started)


def test_results_without_their_job_file_are_left_alone(job: JobConfig) -> None:
    OfflineJob(job).run(EchoEngine)
    identity = local_files(job).identity_file
    assert isinstance(identity, Path)
    identity.write_bytes(b'{"format": 1, "torn')
    with pytest.raises(ConfigError, match=r"no .*b\.job\.json says that it is this job's.*--overwrite"):
        OfflineJob(job).run(never_started)


def test_without_resume_results_are_never_touched(job: JobConfig) -> None:
    stop_after(job, 3)
    with pytest.raises(ConfigError, match=r"exists already.*--overwrite"):
        OfflineJob(replace(job, resume=False)).run(never_started)


def test_two_jobs_never_write_one_file(job: JobConfig) -> None:
    class Nested(EchoEngine):
        def __enter__(self) -> EchoEngine:
            with pytest.raises(ConfigError, match="being written by another job"):
                OfflineJob(job).run(never_started)
            return self

    assert OfflineJob(job).run(Nested).ok == 30


def test_a_job_stopped_before_its_first_record_leaves_nothing(job: JobConfig) -> None:
    def start() -> EchoEngine:
        raise InputError("no such model")

    with pytest.raises(InputError):
        OfflineJob(job).run(start)
    assert isinstance(job.file, Path)
    assert sorted(path.name for path in job.file.parent.iterdir()) == ["b.jsonl"]


@pytest.fixture
def refusing(tmp_path: Path) -> JobConfig:
    """A good line, a line the engine refuses, a line that is refused without it."""
    lines = [batch_line("good", "yes"), batch_line("late", "refuse me"), {"custom_id": "bad"}]
    return write_batch(tmp_path / "b.jsonl", lines)


def test_refusals_stand_while_nothing_changed_that_they_depend_on(refusing: JobConfig) -> None:
    OfflineJob(refusing).run(EchoEngine)
    summary = OfflineJob(refusing).run(never_started)
    assert (summary.ok, summary.failed, summary.resumed_failed) == (1, 2, 2)


@pytest.mark.parametrize(
    ("changed", "argv", "asked"),
    [
        ({}, ["--context-length", "99"], ["late"]),
        ({"retry_errors": True}, [], ["late"]),
        ({"keep_errors": True}, ["--context-length", "99"], []),
    ],
)
def test_refused_lines_are_tried_again_when_that_may_help(
    refusing: JobConfig, changed: dict[str, Any], argv: list[str], asked: list[str]
) -> None:
    OfflineJob(refusing).run(EchoEngine)
    engine = EchoEngine()
    OfflineJob(replace(refusing, **changed), engine_argv=argv).run(lambda: engine)
    assert engine.asked == asked
    answers, errors = records(refusing)
    assert [r["custom_id"] for r in answers] == ["good"]
    assert sorted(r["custom_id"] for r in errors) == ["bad", "late"]


def test_a_line_that_crashed_its_tokenizer_is_tried_again(job: JobConfig) -> None:
    class Crashing(EchoEngine):
        def _prepare_one(self, line: BatchLine) -> Prepared | Rejection:
            if line.custom_id != "r7":
                return super()._prepare_one(line)
            return Rejection(
                code="prepare_crash", message="", status_code=500, line_number=8, custom_id=line.custom_id
            )

    OfflineJob(job).run(Crashing)
    engine = EchoEngine()
    assert OfflineJob(job).run(lambda: engine).ok == 30
    assert engine.asked == ["r7"]


def test_refusals_that_were_kept_are_those_of_the_earlier_flags(refusing: JobConfig) -> None:
    OfflineJob(refusing).run(EchoEngine)
    longer = ["--context-length", "99"]
    OfflineJob(replace(refusing, keep_errors=True), engine_argv=longer).run(never_started)
    engine = EchoEngine()
    OfflineJob(refusing, engine_argv=longer).run(lambda: engine)
    assert engine.asked == ["late"]


def test_an_api_key_is_not_written_beside_the_results(job: JobConfig) -> None:
    OfflineJob(job, engine_argv=["--api-key", "secret", "--admin-api-key=secret"]).run(EchoEngine)
    identity = local_files(job).identity_file
    assert isinstance(identity, Path)
    assert "secret" not in identity.read_text()


def test_a_failure_that_is_not_the_lines_fault_is_tried_again(refusing: JobConfig) -> None:
    OfflineJob(refusing).run(EchoEngine)
    error_file = local_files(refusing).error_file
    identity = local_files(refusing).identity_file
    assert isinstance(error_file, Path)
    assert isinstance(identity, Path)
    text = error_file.read_text().replace('"status_code":400,"request_id"', '"status_code":500,"request_id"')
    error_file.write_text(text)
    identity.write_text(identity.read_text().replace('"num_unsettled": 0', '"num_unsettled": 1'))
    engine = EchoEngine()
    OfflineJob(refusing).run(lambda: engine)
    assert engine.asked == ["late"]
    assert len(records(refusing)[1]) == 2


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_kills_at_any_byte_of_the_written_files_leave_one_record_a_line(
    tmp_path: Path, data: st.DataObject
) -> None:
    """The engine dies after a few answers, then the tail of each file is lost: as often as it likes."""
    lines = mixed_lines(40, data.draw(st.integers(0, 9), label="seed"))
    config = replace(write_lines(tmp_path / "b.jsonl", lines), overwrite=True, window=4)
    files = local_files(config)
    for kill in range(data.draw(st.integers(1, 4), label="kills")):
        with contextlib.suppress(EngineError):
            OfflineJob(config).run(lambda: EchoEngine(dies_after=data.draw(st.integers(0, 30))))
        config = replace(config, overwrite=False)
        for path in (files.output, files.error_file):
            assert isinstance(path, Path)
            if path.exists():
                size = path.stat().st_size
                lost = data.draw(st.one_of(st.just(0), st.integers(0, size)), label=f"lost {kill}")
                path.write_bytes(path.read_bytes()[: size - lost])
    OfflineJob(config).run(EchoEngine)
    check_one_record_a_line(config, lines)


@pytest.mark.slow
def test_killing_the_process_at_random_moments_leaves_one_record_a_line(tmp_path: Path) -> None:
    """kill -9, a hundred times over jobs of 300 lines; see tests/job/killed_job.py."""
    lines = mixed_lines(300)
    config = write_lines(tmp_path / "b.jsonl", lines)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("killed_job.py"), str(config.file), "100"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    num_killed, num_runs = map(int, done.stdout.split())
    assert num_killed == 100
    assert num_runs > num_killed
    check_one_record_a_line(config, lines)
