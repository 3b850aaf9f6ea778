"""In which order rows are started, and when no more are."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from sglang_blend.plan.feed import run_plan


def test_a_job_that_is_stopped_while_it_samples_makes_no_plan() -> None:
    """Planning a large job takes longer than whoever stops it may wait."""
    started: list[int] = []

    async def run_one(row: int) -> None:
        started.append(row)

    plan: Any = SimpleNamespace(sample=np.arange(4), make=lambda: started.append(-1))
    asyncio.run(run_plan(plan, run_one, asyncio.Semaphore(1), lambda: len(started) > 1))
    assert -1 not in started
    assert len(started) < 4
