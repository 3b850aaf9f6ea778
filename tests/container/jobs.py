"""Jobs that end at once or stay in flight, and their command line on the echo engine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

ROOT = Path(__file__).resolve().parents[2]
ECHO_JOB = [sys.executable, str(Path(__file__).with_name("sglang_blend_echo.py"))]
PATIENCE_S = 60.0


def write_batch(folder: Path, *prompts: str) -> Path:
    """A batch file; a prompt with "sleep" stays in flight for a minute, one with "refuse" fails."""
    batch = folder / "batch.jsonl"
    batch.write_bytes(
        b"".join(
            orjson.dumps(
                {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}}
            )
            + b"\n"
            for i, prompt in enumerate(prompts)
        )
    )
    return batch


def num_answers(batch: Path) -> int:
    """Whole lines of the job's output so far."""
    output = batch.with_name("batch.output.jsonl")
    return output.read_bytes().count(b"\n") if output.exists() else 0


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
