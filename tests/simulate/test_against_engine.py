"""The simulated engine takes the steps of the real one: one scheduler decides in both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared_folder import shared_file

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.mark.parametrize(
    ("name", "limit", "pool_tokens"), [("bbh_direct.jsonl.gz", 150, 3000), ("mixed_small.jsonl", 200, 4000)]
)
def test_steps_and_tokens_are_those_of_the_real_run(
    name: str, limit: int, pool_tokens: int, tmp_path: Path
) -> None:
    """Given the true output lengths, in a pool that is too small for the job's prefixes."""
    (run,) = _bench(shared_file(f"text/{name}"), limit, pool_tokens, "dual-scan", tmp_path)
    assert run["failed"] == 0
    assert run["simulated_steps"] == pytest.approx(run["steps"], rel=0.02)
    assert run["simulated_computed_tokens"] == pytest.approx(run["computed_prompt_tokens"], rel=0.02)


def _bench(file: Path, limit: int, pool_tokens: int, policies: str, folder: Path) -> list[dict[str, Any]]:
    out = folder / "bench.json"
    command = ["bench", "--file", str(file), "--limit", str(limit), "--shuffles", "1", "--policies", policies]
    command += ["--max-total-tokens", str(pool_tokens), "--json"]
    with out.open("w") as stdout:
        subprocess.run([sys.executable, "-m", "sglang_blend", *command], stdout=stdout, check=True)
    runs: list[dict[str, Any]] = json.loads(out.read_bytes())["runs"]
    return runs
