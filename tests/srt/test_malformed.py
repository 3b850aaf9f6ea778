"""The malformed files through the real engine: what `tests/job/test_malformed.py` leaves open."""

from pathlib import Path

import pytest

from job.malformed import complaint, malformed_files
from srt.batch_run import MALFORMED_PREFIX, BatchRun, malformed_for_engine

pytestmark = pytest.mark.engine


def test_every_line_ends_as_documented(batch_run: BatchRun, tmp_path: Path) -> None:
    expected = {
        f"{MALFORMED_PREFIX}{file.manifest['file']} {line['line']}": line
        for file in malformed_files(tmp_path)
        for line in file.expected
    }
    errors = {e["custom_id"]: e["response"]["body"]["error"] for e in batch_run.errors}
    complaints = []
    for asked in malformed_for_engine(tmp_path):
        name = asked["custom_id"]
        error = errors.get(name)
        assert (error is None) == (name in batch_run.answers)
        entry = expected[name]
        told = complaint(
            entry, error and error["code"], error and error["param"], entry.get("custom_id", "any")
        )
        complaints += [f"{name}: {told}"] if told else []
    assert not complaints, "\n".join(complaints)
