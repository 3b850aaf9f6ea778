"""For all tests: whether this machine was calibrated changes no plan, and OpenMP threads do not spin.

`scripts/test.sh` runs them in two processes: an engine that starts keeps one core busy.
"""

import os

import pytest

os.environ["SGLANG_BLEND_HARDWARE"] = "none"
# As the platform has it for engines; read when torch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(tryfirst=True)  # before xdist's, which reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file share what its fixtures start, and so do all that use the one run of the main job."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        group = "batch_run" if "batch_run" in names else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
