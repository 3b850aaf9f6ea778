"""docker/health.sh: a job that writes is healthy, one that writes nothing any more is not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from container.jobs import ECHO_JOB, ROOT, num_answers, wait_for, write_batch
from sglang_blend.config import DEFAULT_HANG_TIMEOUT_S

# A test's own output may be a file, which is written.
SILENT: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
HEALTH = ROOT / "docker" / "health.sh"


def health(*pids: int, max_silence_s: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HEALTH, *map(str, pids)],
        env={**os.environ, "HEALTH_MAX_SILENCE_S": str(max_silence_s)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def job(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A job with one answer, and one request in flight; its process id and its batch file."""
    batch = write_batch(tmp_path, "one", "sleep")
    flags = ["--file", str(batch), "--no-report", "--order", "fcfs"]
    with subprocess.Popen([*ECHO_JOB, *flags], **SILENT) as process:
        wait_for(lambda: num_answers(batch) == 1)
        yield process.pid, batch
        process.kill()


def test_a_job_that_writes_is_healthy_and_a_silent_one_is_not(job: tuple[int, Path]) -> None:
    pid, _ = job
    assert health(pid, max_silence_s=600).returncode == 0
    # As if nothing had been written for an hour.
    hour_ago = time.time() - 3600
    for open_file in Path(f"/proc/{pid}/fd").iterdir():
        if open_file.is_file():
            os.utime(open_file, (hour_ago, hour_ago))
    silent = health(pid, max_silence_s=600)
    assert silent.returncode == 1
    assert silent.stdout == "no open file was written for 600 s: the job hangs\n"


def test_a_file_that_somebody_else_writes_is_no_sign_of_life(job: tuple[int, Path]) -> None:
    _, batch = job
    with subprocess.Popen(["sleep", "60"], **SILENT) as other:
        batch.write_bytes(batch.read_bytes())
        code = health(other.pid, max_silence_s=600).returncode
        other.kill()
    assert code == 1


def test_without_process_ids_it_looks_at_what_is_called_like_the_job(job: tuple[int, Path]) -> None:
    assert "sglang" in " ".join(ECHO_JOB)
    assert health(max_silence_s=600).returncode == 0


def test_a_process_that_is_gone_is_not_healthy() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert health(gone.pid, max_silence_s=600).returncode == 1


def test_the_job_may_be_silent_longer_than_its_own_watchdog_allows_the_engine() -> None:
    default = next(line for line in HEALTH.read_text().splitlines() if line.startswith("max_silence_s="))
    assert int(default.split(":-")[1].rstrip("}")) > 3 * DEFAULT_HANG_TIMEOUT_S
