"""The real engine with the demo model, started once per test run."""

import pytest

from srt.batch_run import BatchRun, all_lines, run_batch


@pytest.fixture(scope="session")
def batch_run(tmp_path_factory: pytest.TempPathFactory) -> BatchRun:
    return run_batch(tmp_path_factory.mktemp("job"), all_lines(), "--chunked-prefill-size", "512")
