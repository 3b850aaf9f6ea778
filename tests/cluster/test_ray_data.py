"""Planned generation as a stage of a Ray Data pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sglang_blend.errors import ConfigError
from sglang_blend.ray_data import generate

SCRIPT = Path(__file__).with_name("ray_data_job.py")

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.mark.engine
def test_every_row_of_a_dataset_gets_its_answer(tmp_path: Path) -> None:
    # A shared prefix long enough that one request computes it for all, however fast they come.
    questions = [f"{'Numbers go up one by one. ' * 4}The number after {number} is" for number in range(12)]
    table = pa.table({"question": questions, "number": list(range(12))})
    pq.write_table(table, tmp_path / "questions.parquet")
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "questions.parquet", tmp_path / "answers"],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = sorted(pq.read_table(tmp_path / "answers").to_pylist(), key=lambda row: row["number"])
    assert [row["question"] for row in rows] == questions
    assert all(row["answer"] and row["answer_error"] is None for row in rows)
    assert all(0 < row["answer_output_tokens"] <= 6 for row in rows)
    assert sum(row["answer_cached_tokens"] for row in rows) > 0, "the rows share their first words"


def test_no_replica_is_refused() -> None:
    with pytest.raises(ConfigError, match="replicas is 0"):
        generate(None, replicas=0)
