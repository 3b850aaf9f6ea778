"""The prepare workers see a request exactly as the engine would."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from shared_folder import SHARED
from srt.batch_run import all_lines, chat, completion

pytestmark = pytest.mark.engine
SCRIPT = Path(__file__).with_name("equal_preparation.py")


def test_ids_refusals_and_sampling_parameters_are_those_of_the_engine(tmp_path: Path) -> None:
    """Every feature, all that is refused, LoRA adapters, and real prompts where the shared files are."""
    mine = tmp_path / "mine.jsonl"
    adapted = [chat("adapter", model="demo:ad"), completion("adapter's path", "Hello", lora_path="ad")]
    mine.write_bytes(b"\n".join(all_lines() + [orjson.dumps(line) for line in adapted]) + b"\n")
    real = SHARED / "workloads" / "text" / "mixed_small.jsonl"
    files = [mine, real] if real.exists() else [mine]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    num_lines, num_adapted = map(int, done.stdout.split()[-2:])
    assert num_lines >= 80
    assert num_adapted == len(adapted)
