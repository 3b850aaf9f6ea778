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
    """Tests of a file share what its fixtures start, and so do all that use the one run of the main job.

    Files that say a group of their own (`pytest.mark.xdist_group`) run after one another: two Rays at a time
    would want the same cores.
    """
    groups = [_group(item) for item in items]
    with_engine = {
        group for group, item in zip(groups, items, strict=True) if item.get_closest_marker("engine")
    }
    for group, item in zip(groups, items, strict=True):
        item.add_marker(pytest.mark.xdist_group(group))
    # Those that start engines, and take long, go first: the others fill the gap at the end.
    items.sort(key=lambda item: _group(item) not in with_engine)


def _group(item: pytest.Item) -> str:
    if named := item.get_closest_marker("xdist_group"):
        return str(named.args[0])
    return "batch_run" if "batch_run" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
