"""The job on a real Ray: replicas that are killed, Ray that is missing or too small, the real engine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.ray_cluster import RayCluster
from sglang_blend.cluster.replica_worker import ReplicaWorker
from sglang_blend.errors import ConfigError
from srt.batch_run import completion
from srt.greedy import greedy_answers

TESTS = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


# The tests must be importable in Ray's processes too.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}


def run_script(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=1200,
        env=ENVIRONMENT,
        check=False,
    )


def start_script(*words: str | Path) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *map(str, words)], stdout=quiet, stderr=quiet, env=ENVIRONMENT)


def completions(path: Path, num_lines: int) -> None:
    """Groups of prompts with a word in common."""
    with path.open("wb") as file:
        for number in range(num_lines):
            body = {"prompt": f"group {number % 9} asks {number}", "max_tokens": 4}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(orjson.dumps(line) + b"\n")


def test_actors_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    completions(tmp_path / "batch.jsonl", 900)
    done = run_script(TESTS / "cluster" / "ray_job.py", tmp_path / "batch.jsonl", "3")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    assert said["all_killed"]
    assert said["summary"]["ok"] == 900
    # One that was killed while it started was not a replica yet, so it is not counted.
    assert said["summary"]["num_restarts"] >= 1
    assert said["summary"]["num_replicas"] == 2
    records = [orjson.loads(line) for line in (tmp_path / "batch.output.jsonl").read_bytes().splitlines()]
    answers = {record["custom_id"]: record["response"]["body"]["echo"] for record in records}
    assert len(records) == 900
    assert answers == {f"r{number}": str(number) for number in range(900)}
    assert sum(place["num_done"] for place in said["cluster"]["places"]) == 900
    assert said["cluster"]["sent_bytes"] > 0
    # Four words a prompt, four bytes a word, and the offsets.
    assert said["cluster"]["prompt_bytes"] == 900 * 4 * 4 + 901 * 8


def answers_in_parts(folder: Path) -> list[str]:
    """custom_ids of all records in the parts of an output."""
    parts = sorted(folder.glob("batch.output.jsonl.parts/[0-9]*.jsonl"))
    return [orjson.loads(line)["custom_id"] for part in parts for line in part.read_bytes().splitlines()]


def test_replicas_that_write_themselves_lose_and_double_nothing(tmp_path: Path) -> None:
    completions(tmp_path / "batch.jsonl", 900)
    script = TESTS / "cluster" / "ray_job.py"
    done = run_script(script, tmp_path / "batch.jsonl", "2", "sharded")
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    assert said["all_killed"]
    assert said["summary"]["ok"] == 900
    assert said["summary"]["output_tokens"] == 900
    assert said["cluster"]["received_bytes"] < 900 * 200, "bodies stay where they are written"
    assert sorted(answers_in_parts(tmp_path)) == sorted(f"r{number}" for number in range(900))
    assert not (tmp_path / "batch.output.jsonl").exists()


def test_a_job_in_parts_that_was_killed_goes_on_from_them(tmp_path: Path) -> None:
    completions(tmp_path / "batch.jsonl", 900)
    words: list[str | Path] = [TESTS / "cluster" / "ray_job.py", tmp_path / "batch.jsonl", "0", "sharded"]
    job = start_script(*words)
    while len(answers_in_parts(tmp_path)) < 200:
        assert job.poll() is None, "the job ended before it was killed"
        time.sleep(0.05)
    job.kill()
    job.wait()
    time.sleep(2)  # its replicas end with it
    before = len(answers_in_parts(tmp_path))
    done = run_script(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    assert said["summary"]["resumed_ok"] == before
    assert said["summary"]["ok"] == 900
    assert sorted(answers_in_parts(tmp_path)) == sorted(f"r{number}" for number in range(900))


@pytest.mark.parametrize("sharded", [[], ["sharded"]])
def test_sigterm_lets_all_replicas_finish_what_they_run(tmp_path: Path, sharded: list[str]) -> None:
    """Ray puts a handler of its own in the place of the job's: with that the process ends on the spot."""
    completions(tmp_path / "batch.jsonl", 900)
    script = TESTS / "cluster" / "ray_job.py"
    done = run_script(script, tmp_path / "batch.jsonl", "0", *sharded, "SIGTERM")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Stopping: waiting 20 s at most" in done.stderr
    said: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])["summary"]
    assert (said["complete"], said["stopped_by"]) == (False, "SIGTERM")
    num_kept = said["ok"]
    assert 200 < num_kept < 900, "what was in flight is there too"
    assert num_kept == len(answers(tmp_path)) == len(set(answers(tmp_path)))
    done = run_script(script, tmp_path / "batch.jsonl", "0", *sharded)
    assert done.returncode == 0, done.stderr[-3000:]
    assert orjson.loads(done.stdout.splitlines()[-1])["summary"]["resumed_ok"] == num_kept
    assert sorted(answers(tmp_path)) == sorted(f"r{number}" for number in range(900))


def answers(folder: Path) -> list[str]:
    """custom_ids in the output, in whichever form it is."""
    output = folder / "batch.output.jsonl"
    lines = output.read_bytes().splitlines() if output.exists() else []
    return [orjson.loads(line)["custom_id"] for line in lines] or answers_in_parts(folder)


@pytest.mark.parametrize("whose", ["nobody", "everybody"])
def test_a_cluster_that_somebody_else_names_is_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Of a cluster that answers, a job runs what that sends."""
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text("127.0.0.1:7777")
    if whose == "everybody":
        note.chmod(0o666)
    elif os.geteuid():
        pytest.skip("only root can give a file away")
    else:
        os.chown(note, 65534, 65534)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--ray-address auto.*is not yours"):
        RayCluster(ClusterConfig(replicas=1, ray_address="auto"), [], ReplicaWorker)


def test_two_jobs_on_one_machine_have_a_ray_each(tmp_path: Path) -> None:
    """The first ends, and stops its Ray, while the second runs."""
    for name, num_lines in (("first", 100), ("second", 900)):
        (tmp_path / name).mkdir()
        completions(tmp_path / name / "batch.jsonl", num_lines)
    script = TESTS / "cluster" / "ray_job.py"
    first = start_script(script, tmp_path / "first" / "batch.jsonl", "0")
    time.sleep(5)
    done = run_script(script, tmp_path / "second" / "batch.jsonl", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert first.wait() == 0
    assert (tmp_path / "second" / "batch.output.jsonl").read_bytes().count(b"\n") == 900


def test_a_machine_that_dies_is_replaced_by_one_that_comes_later(tmp_path: Path) -> None:
    completions(tmp_path / "batch.jsonl", 900)
    done = run_script(TESTS / "cluster" / "ray_nodes.py", tmp_path / "batch.jsonl")
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    assert said["summary"]["ok"] == 900
    assert said["summary"]["num_restarts"] == 1
    lines = (tmp_path / "batch.output.jsonl").read_bytes().splitlines()
    assert {orjson.loads(line)["custom_id"] for line in lines} == {f"r{number}" for number in range(900)}
    assert len(lines) == 900


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'sglang-blend\[ray\]'"):
        RayCluster(ClusterConfig(replicas=2), [], ReplicaWorker)


def launch(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    return run_script("-m", "sglang_blend.launch_offline", *flags)


def test_more_replicas_than_this_machine_has_room_for_are_refused(tmp_path: Path) -> None:
    completions(tmp_path / "batch.jsonl", 2)
    done = launch("--file", tmp_path / "batch.jsonl", "--replicas", "999")
    assert done.returncode == 2
    assert "--replicas 999: they need 999 CPUs (1 each), there are" in done.stderr
    assert not (tmp_path / "batch.output.jsonl").exists()


def test_an_address_where_no_ray_is_is_refused(tmp_path: Path) -> None:
    completions(tmp_path / "batch.jsonl", 2)
    done = launch("--file", tmp_path / "batch.jsonl", "--replicas", "2", "--ray-address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "--ray-address 127.0.0.1:1: no Ray cluster answers there" in done.stderr


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_two_replicas_answer_as_the_model_does(tmp_path: Path) -> None:
    prompts = [f"Topic {n % 4}. " * 12 + f"The number after {n} is" for n in range(40)]
    lines = [completion(f"r{number}", prompt) for number, prompt in enumerate(prompts)]
    (tmp_path / "two.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    # In 16 bits the shape of a batch changes rounding.
    flags = ["--max-total-tokens", "20000", "--dtype", "float32", "--replicas", "2"]
    done = launch("--file", tmp_path / "two.jsonl", *flags)
    assert done.returncode == 0, done.stderr
    records = [orjson.loads(line) for line in (tmp_path / "two.output.jsonl").read_bytes().splitlines()]
    answers = {r["custom_id"]: r["response"]["body"]["choices"][0]["text"] for r in records}
    assert len(records) == len(answers) == 40
    assert [answers[f"r{number}"] for number in range(40)] == greedy_answers(prompts, 8)
    # A replica that is ready first may have done all of so small a job when the other is.
    steps = list(tmp_path.glob("two.steps.jsonl*"))
    assert steps
    assert all(file.stat().st_size for file in steps)
    assert (tmp_path / "two.report.html").exists()
