"""The real engine with the demo model, started once per test run."""

import orjson
import pytest

from srt.batch_run import BatchRun, all_lines, malformed_for_engine, run_batch


@pytest.fixture(scope="session")
def batch_run(tmp_path_factory: pytest.TempPathFactory) -> BatchRun:
    directory = tmp_path_factory.mktemp("job")
    malformed = [orjson.dumps(line) for line in malformed_for_engine(directory)]
    return run_batch(directory, all_lines() + malformed, "--chunked-prefill-size", "512")
