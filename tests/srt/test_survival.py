"""What a job of real processes survives: a dead scheduler, a request that kills it, signals, kill -9."""

from __future__ import annotations

import json
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_blend.scheduling.step_records import read_steps
from srt.batch_run import completion
from srt.running_job import RunningJob

pytestmark = pytest.mark.engine
POISONABLE = "--enable-custom-logit-processor"
# How soon the processes of a killed job are gone, on a machine that runs other tests too.
GONE_S = 15


def long_completion(number: int, num_tokens: int = 24) -> dict[str, Any]:
    return completion(f"r{number}", f"Number {number} is", max_tokens=num_tokens, ignore_eos=True)


def test_a_request_that_kills_the_scheduler_costs_that_request(tmp_path: Path) -> None:
    """A logit processor that cannot be called: SGLang finds out in the middle of a step."""
    processor = json.dumps({"callable": pickle.dumps(int).hex()})
    poison = completion("poison", "Once upon", custom_logit_processor=processor)
    lines = [long_completion(0, 8), long_completion(1, 8), poison]
    with RunningJob(tmp_path, lines, "--order", "fcfs", "--window", "1", POISONABLE) as job:
        assert job.exit_code() == 1, job.screen()
        assert sorted(answer["custom_id"] for answer in job.answers()) == ["r0", "r1"]
        (error,) = job.errors()
        assert (error["custom_id"], error["response"]) == ("poison", None)
        assert error["error"]["code"] == "engine_crash"
        summary = job.summary()
        assert (summary["num_restarts"], summary["num_retries"], summary["ok"]) == (1, 1, 2)
        assert "'int' object is not callable" in job.screen()
        assert "not callable" in (tmp_path / "batch.engine.log").read_text()
        assert job.is_gone_within(GONE_S)


def test_a_killed_scheduler_is_replaced_and_a_signal_drains(tmp_path: Path) -> None:
    """In mixed chunk, whose steps have prefill and decode together, also after the restart."""
    lines = [long_completion(n, 16 + n % 16) for n in range(400)]
    flags = ("--window", "8", "--drain-timeout", "60", "--overlap", "mixed")
    steps_file = tmp_path / "batch.steps.jsonl"

    def mixed(num_engines: int) -> bool:
        """Whether that many engines have written of a step with both; steps are written once a second."""
        engines = list(read_steps(steps_file)) if steps_file.exists() else []
        steps = engines[-1].records if len(engines) == num_engines else []
        return any(step["prefill_tokens"] and step["decode_tokens"] for step in steps)

    with RunningJob(tmp_path, lines, *flags) as job:
        job.wait_for_answers(3)
        job.wait_for(lambda: mixed(1))
        (scheduler,) = job.descendants("scheduler")
        scheduler.kill()
        before = len(job.answers())
        job.wait_for_answers(before + 10)
        job.wait_for(lambda: mixed(2))
        job.send(signal.SIGTERM)
        assert job.exit_code() == 128 + signal.SIGTERM, job.screen()
        summary, answers = job.summary(), job.answers()
        assert len({answer["custom_id"] for answer in answers}) == len(answers) == summary["ok"]
        assert summary["num_restarts"] == 1
        assert 1 <= summary["num_retries"] <= 8
        assert summary["failed"] == 0
        assert summary["not_run"] == 400 - len(answers) > 0
        assert summary["stopped_by"] == "SIGTERM"
        assert "given up" not in job.screen(), "everything in flight had the time to finish"
        assert job.is_gone_within(GONE_S)


@pytest.mark.parametrize("seconds", [0.3, 3])
def test_a_job_killed_at_its_start_leaves_no_process(tmp_path: Path, seconds: float) -> None:
    with RunningJob(tmp_path, [long_completion(0)]) as job:
        time.sleep(seconds)
        job.send(signal.SIGKILL)
        job.exit_code()
        assert job.is_gone_within(GONE_S)


def test_a_signal_while_the_engine_starts_ends_at_once_and_leaves_no_files(tmp_path: Path) -> None:
    with RunningJob(tmp_path, [long_completion(0)]) as job:
        job.wait_for(job.descendants)
        job.send(signal.SIGINT)
        start = time.monotonic()
        assert job.exit_code() == 128 + signal.SIGINT, job.screen()
        assert time.monotonic() - start < 30
        assert job.is_gone_within(GONE_S)
    assert {path.name for path in tmp_path.glob("batch.*")} <= {"batch.jsonl", "batch.engine.log"}


def test_a_job_killed_while_the_scheduler_starts_leaves_no_process(tmp_path: Path) -> None:
    with RunningJob(tmp_path, [long_completion(0)]) as job:
        job.wait_for(lambda: job.descendants("sglang::scheduler"))
        job.send(signal.SIGKILL)
        job.exit_code()
        assert job.is_gone_within(GONE_S)


def test_a_job_killed_while_it_runs_leaves_no_process_and_whole_lines(tmp_path: Path) -> None:
    with RunningJob(tmp_path, [long_completion(n) for n in range(400)]) as job:
        job.wait_for_answers(1)
        assert "died" not in job.screen(), job.screen() + job.engine_log()
        assert len(job.descendants()) >= 4, "nursery, host, scheduler, detokenizer\n" + job.engine_log()
        job.send(signal.SIGKILL)
        job.exit_code()
        assert job.is_gone_within(GONE_S)
        assert len(job.answers()) >= 1
