"""What a command says: nothing that others wrote drives a terminal, and a missing stream costs no result."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest

from container.jobs import ECHO_JOB, num_answers, wait_for, write_batch
from sglang_blend.console import log_to_stderr, printable


def test_control_characters_are_shown_and_not_sent(capfd: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;title\x07 \x1b[2J \x9b31m \r\x7f fine: \u00e9 \u4f60\n\ttab"
    shown = printable(hostile)
    assert shown == "\\x1b]0;title\\x07 \\x1b[2J \\x9b31m \\x0d\\x7f fine: \u00e9 \u4f60\n\ttab"
    before = logging.getLogger("sglang_blend").handlers, logging.getLogger("sglang_blend").propagate
    try:
        log_to_stderr()
        logging.getLogger("sglang_blend.x").warning("%s", hostile)
    finally:
        logging.getLogger("sglang_blend").handlers, logging.getLogger("sglang_blend").propagate = before
    assert capfd.readouterr().err == f"{shown}\n"


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "&>/dev/full"]
)
def test_a_job_without_a_stream_has_the_same_results_and_exit_code(tmp_path: Path, closed: str) -> None:
    """A descriptor that is free would be that of the next file, and that would get the words for a screen."""
    batch = write_batch(tmp_path, *(f"word {i}" for i in range(20)))
    command = " ".join([*ECHO_JOB, "--file", str(batch), "--no-report", closed])
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert num_answers(batch) == 20
    assert (tmp_path / "batch.summary.json").exists()


def test_a_lost_terminal_is_a_wish_to_stop_and_one_that_was_given_up_is_not(tmp_path: Path) -> None:
    """SIGHUP, and SIGHUP under nohup."""
    for name, ignored, code in (("lost", False, 129), ("given_up", True, 129)):
        folder = tmp_path / name
        folder.mkdir()
        batch = write_batch(folder, "one", "sleep")
        flags = ["--file", str(batch), "--no-report", "--order", "fcfs", "--drain-timeout", "0.2"]
        job = subprocess.Popen(
            [*ECHO_JOB, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if ignored else None,
        )
        wait_for(lambda batch=batch: num_answers(batch) == 1)  # type: ignore[misc]
        job.send_signal(signal.SIGHUP)
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                job.wait(1.0)
            job.kill()
            assert job.wait() == -signal.SIGKILL
            continue
        assert job.wait(30) == code
        assert b'"stopped_by": "SIGHUP"' in (folder / "batch.summary.json").read_bytes()


def test_a_terminal_that_is_gone_costs_no_result(tmp_path: Path) -> None:
    batch = write_batch(tmp_path, *(f"word {i}" for i in range(20)))
    ours, theirs = os.openpty()
    job = subprocess.Popen(
        [*ECHO_JOB, "--file", str(batch), "--no-report"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    os.close(theirs)
    os.close(ours)
    assert job.wait(60) == 0
    assert num_answers(batch) == 20


def test_a_bug_is_not_told_as_a_job_with_failed_lines(tmp_path: Path) -> None:
    """Python leaves with 1 where nobody catches an exception, which here says that every line is done."""
    batch = write_batch(tmp_path, "one")
    (tmp_path / "batch.summary.json").mkdir()
    script = tmp_path / "bug.py"
    script.write_text(
        "import sys; from sglang_blend import launch_offline as job\n"
        "job.start_engine = lambda *a, **k: 1 / 0; sys.exit(job.main(sys.argv[1:]))\n"
    )
    done = subprocess.run([ECHO_JOB[0], script, "--file", batch], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
