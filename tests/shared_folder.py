"""Where the shared workload files lie: beside the repository, or where SGLANG_BLEND_SHARED says."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SGLANG_BLEND_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_file(relative: str) -> Path:
    """A file under the shared folder; the test is skipped where it is absent."""
    path = SHARED / "workloads" / relative
    if not path.exists():
        pytest.skip(f"workload file {relative} is not there; set SGLANG_BLEND_SHARED to the shared folder")
    return path
