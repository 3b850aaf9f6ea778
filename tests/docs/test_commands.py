"""Every command that README and docs show is run here as it stands, or is listed with a reason why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs.commands import ROOT, shown_commands

OTHER_MODEL = "the model comes from a hub"
BY_ITSELF = "a README command; this test is part of it, or runs after it"
INSTALLS = "changes the environment that the tests run in"
SERVER = "tests/srt/test_server.py runs it with the demo model"
TRACE = "the trace is not part of this repository"
RAY = "tests/cluster/test_ray.py runs the like; a second Ray would want the cores of the first"
CLUSTER = "needs a cluster"
MAIN_JOB = "tests/srt/batch_run.py runs it, on more lines"
SAME = "as with batch.jsonl; the same file is planned by the command below it"
GPU = "needs a GPU"
CONTAINER = "needs a container engine; tests/container checks what can be checked without one"
MEASURES = "a measurement that takes many minutes; the page has its numbers"
# Beginnings of commands that are not run; with a line break, whole ones.
NOT_RUN = {
    "python -m sglang_blend.launch_offline --file batch.jsonl\n": MAIN_JOB,
    "python -m sglang_blend.launch_offline --file mine.jsonl\n": SAME,
    "python -m sglang_blend.launch_offline --file batch.jsonl --model-path meta-llama/": OTHER_MODEL,
    "python -m sglang_blend.launch_offline --file mine.jsonl --model-path meta-llama/": OTHER_MODEL,
    "python -m sglang.launch_server --model-path MODEL": SERVER,
    "python -m sglang_blend.launch_offline --file examples/batch.jsonl --replicas 2": RAY,
    "python -m sglang_blend.launch_offline --file batch.jsonl --replicas 2 --sharded-output": RAY,
    "ray job submit": CLUSTER,
    "kubectl apply": CLUSTER,
    "docker build": CONTAINER,
    "docker run": CONTAINER,
    "docker compose": CONTAINER,
    "sbatch": CLUSTER,
    "scripts/quickstart.sh": BY_ITSELF,
    "scripts/test.sh": BY_ITSELF,
    "scripts/check": BY_ITSELF,
    "python -m pytest": BY_ITSELF,
    "sglang-blend calibrate --model-path": OTHER_MODEL,
    "sglang-blend calibrate --steps": "tests/cli/test_calibrate.py runs it",
    "scripts/bench_gpu.sh": GPU,
    "python scripts/profile_steps.py": GPU,
    "sglang-blend fork record": INSTALLS,
    "sglang-blend fork install": INSTALLS,
    "pip install": INSTALLS,
    "python scripts/bench_attention.py --model-path meta-llama/": OTHER_MODEL,
    "python scripts/bench_attention.py --batch": MEASURES,
    "python scripts/bench_attention.py --file": MEASURES,
    "python scripts/kill_test.py": MEASURES,
    "python scripts/bench_simulator.py": MEASURES,
    "python scripts/bench_cluster.py": MEASURES,
    "sglang-blend simulate --trace mooncake": TRACE,
    "sglang-blend simulate --file bench-gpu/": "the benchmark on a GPU writes the file",
    "sglang-blend simulate --paper-trace 1 --num-requests 20000": MEASURES,
    "sglang-blend bench --file bbh_direct.jsonl.gz": MEASURES,
    "sglang-blend bench --file mixed_small.jsonl": MEASURES,
}
COMMANDS = sorted({command.text for command in shown_commands()})
RUN = [text for text in COMMANDS if not any(f"{text}\n".startswith(start) for start in NOT_RUN)]
STARTS_ENGINE = ("launch_offline", "sglang-blend run", "sglang-blend bench")


def _line(number: int) -> dict[str, object]:
    body = {"messages": [{"role": "user", "content": f"Say {number}."}], "max_tokens": 4}
    return {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


@pytest.mark.engine
def test_the_program_that_the_python_page_shows_first_ends(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text((ROOT / "docs" / "python.md").read_text().split("```")[1][7:])
    program = [sys.executable, str(tmp_path / "program.py")]
    assert "Paris" in subprocess.run(program, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the docs stands: in the repository, with files of his own."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "batch.jsonl").write_text("".join(json.dumps(_line(n)) + "\n" for n in range(3)))
    table = {"question": ["The capital of France is", "The capital of Italy is"], "max_tokens": [4, 4]}
    pq.write_table(pa.table(table), folder / "questions.parquet")
    return folder


def test_no_reason_is_left_without_its_command() -> None:
    assert [start for start in NOT_RUN if not any(f"{t}\n".startswith(start) for t in COMMANDS)] == []


def _params() -> list[object]:
    def starts_engine(text: str) -> bool:
        return any(word in text for word in STARTS_ENGINE)

    marks = [[pytest.mark.engine] if starts_engine(text) else [] for text in RUN]
    return [pytest.param(t, marks=m, id=t.splitlines()[0]) for t, m in zip(RUN, marks, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("text", _params())
def test_the_command_runs_as_shown(text: str, folder: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, "PATH": programs},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
