"""Feeds a job to an engine in planned order, a bounded number of requests at a time.

`Feeder` is what a job needs of this; `WindowFeeder` feeds one engine, `cluster.feeder` many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from sglang_blend.plan.job_plan import JobPlan
from sglang_blend.request import Answer, BatchLine, Failure

# Runs a row of the plan: its line, and what it carries to the scheduler.
RunRow = Callable[[int, BatchLine, dict[str, Any] | None], Awaitable[Answer | Failure]]


class Phase(Enum):
    """Of a planned list; the values are for people."""

    SAMPLE = "sampling output lengths"
    PLAN = "planning"
    RUN = "running"


class Feeder(Protocol):
    """Hands the requests of a job to where they run."""

    async def feed(
        self,
        plan: JobPlan,
        run_one: Callable[[int, RunRow], Awaitable[None]],
        is_stopping: Callable[[], bool],
        on_phase: Callable[[Phase], None],
    ) -> None:
        """Run the plan's sample, make the plan, run the rest; returns when all that were started have ended.

        Args:
            run_one: gets a row of the plan, and what runs it.
            is_stopping: no more are started once it is true.
            on_phase: told when a phase begins.

        Raises:
            EngineError: no engine can answer any more.
        """

    def wake(self) -> None:
        """`is_stopping` has become true."""


class WindowFeeder:
    """A `Feeder` of one engine, which holds at most `window` requests at a time."""

    def __init__(self, run_row: RunRow, window: int) -> None:
        self._run_row = run_row
        self._free = asyncio.Semaphore(window)

    async def feed(
        self,
        plan: JobPlan,
        run_one: Callable[[int, RunRow], Awaitable[None]],
        is_stopping: Callable[[], bool],
        on_phase: Callable[[Phase], None],
    ) -> None:
        """See `Feeder`."""
        await run_plan(plan, lambda row: run_one(row, self._run_row), self._free, is_stopping, on_phase)

    def wake(self) -> None:
        """See `Feeder`."""
        self._free.release()


def _never() -> bool:
    return False


def _nobody(phase: Phase) -> None:
    pass


async def run_plan(
    plan: JobPlan,
    run_one: Callable[[int], Awaitable[object]],
    free: asyncio.Semaphore,
    is_stopping: Callable[[], bool] = _never,
    on_phase: Callable[[Phase], None] = _nobody,
) -> None:
    """Run the plan's sample, make the plan, run the rest in its order.

    Args:
        run_one: gets a row of the plan.
        free: of the window; acquired for each row.
        is_stopping: no more are started once it is true.
        on_phase: told when a phase begins.
    """
    sampled = plan.sample.tolist()
    if sampled:
        on_phase(Phase.SAMPLE)
        await run_rows(sampled, run_one, free, is_stopping)
        if is_stopping():
            return
    on_phase(Phase.PLAN)
    await asyncio.to_thread(plan.make)
    on_phase(Phase.RUN)
    first = set(sampled)
    rest = [row for row in plan.schedule.sequence.tolist() if row not in first]

    async def renew() -> None:
        if plan.wants_renewal:
            await asyncio.to_thread(plan.renew)

    await run_rows(rest, run_one, free, is_stopping, before_each=renew)


async def _nothing() -> None:
    pass


async def run_rows(
    rows: Sequence[int],
    run_one: Callable[[int], Awaitable[object]],
    free: asyncio.Semaphore,
    is_stopping: Callable[[], bool] = _never,
    before_each: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """Run the rows in this order, as `free` allows; returns when all that were started have finished.

    The first exception of `run_one` cancels the others and is raised.
    """

    async def run_and_free(row: int) -> None:
        try:
            await run_one(row)
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as group:
            for row in rows:
                await free.acquire()
                if is_stopping():
                    break
                await before_each()
                group.create_task(run_and_free(row))
    except BaseExceptionGroup as failures:  # the first failure cancelled the others
        raise failures.exceptions[0] from failures
