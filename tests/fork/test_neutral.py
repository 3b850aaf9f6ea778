"""With our flags off the fork's scheduler decides as the stock one does."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_blend import fork
from sglang_blend.fork import builder
from sglang_blend.machine import cache_dir

SCENARIO = Path(__file__).with_name("scheduler_scenario.py")


def run_scenario(tree: Path | None) -> dict[str, Any]:
    """Decisions of SGLang's scheduler, from the tree given or from the installed fork."""
    env = os.environ | ({"PYTHONPATH": str(tree)} if tree else {})
    done = subprocess.run(
        [sys.executable, str(SCENARIO)], env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    decisions: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return decisions


@pytest.mark.engine
def test_the_fork_schedules_as_stock_does_and_frees_hinted_requests(tmp_path: Path) -> None:
    series = fork.current_series()
    stock_wheel = builder.stock_wheel(cache_dir("fork") / "stock", series.sglang_version)
    stock = run_scenario(builder.unpack(stock_wheel, tmp_path, series.sglang_version))
    forked = run_scenario(None)
    assert stock["version"] == series.sglang_version
    assert forked["version"] == series.fork_version
    assert forked["decisions"] == stock["decisions"]
    orders = [tuple(policy["order"]) for policy in stock["decisions"].values() if "order" in policy]
    assert len(set(orders)) == len(orders) > 3, "the scenario does not tell the policies apart"
    lives = [str(life) for life in stock["decisions"]["radix cache"].values()]
    assert len(set(lives)) == len(lives) > 3, "the scenario does not tell the eviction policies apart"
    # The one intended difference: without a logit processor the params do not point back to the request.
    assert stock["request_refers_to_itself"]
    assert not forked["request_refers_to_itself"]


@pytest.mark.engine
def test_the_installed_fork_is_as_recorded() -> None:
    assert fork.check() == importlib.metadata.version("sglang") == fork.current_series().fork_version
