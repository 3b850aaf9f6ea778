"""One offline job: prepare all lines, plan them, feed the engine in that order.

    scan -> prepare (tokens into the spool) -> plan -> feed with a bounded window -> write as they finish

Every line ends as exactly one record, in the output or in the error file. Interrupted, the job keeps what
is finished and says how many requests did not run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sglang_blend.core import PlanConfig, Schedule, make_schedule, make_workload
from sglang_blend.core.workload import Workload
from sglang_blend.job.engine import Engine
from sglang_blend.job.input import BatchFile, BatchLine
from sglang_blend.job.progress import Progress
from sglang_blend.job.records import Rejection
from sglang_blend.job.results import Results
from sglang_blend.job.spool import RequestSpool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of a job and what it was made from."""

    workload: Workload
    schedule: Schedule


def count_lines(batch: BatchFile, results: Results) -> int:
    """First pass, before any engine: refuse lines with a bad envelope; returns the number of good ones."""
    num_good = 0
    for item in batch.scan():
        if isinstance(item, BatchLine):
            num_good += 1
        else:
            results.refuse(item)
    return num_good


def prepare(
    batch: BatchFile, engine: Engine, spool: RequestSpool, results: Results, progress: Progress
) -> None:
    """Second pass: tokenize every line with a good envelope, refuse those whose body is not right."""
    for item in batch.scan():
        if not isinstance(item, BatchLine):
            continue
        prepared = engine.prepare(item)
        if isinstance(prepared, Rejection):
            results.refuse(prepared)
        else:
            spool.append(item, prepared)
        progress.add()


def plan(spool: RequestSpool, *, order: str) -> Plan:
    """Order the prepared requests by an order that needs no cost model."""
    config = PlanConfig(order=order)
    workload = make_workload(spool.table(), None, config)
    return Plan(workload=workload, schedule=make_schedule(workload.table, None, config, workload=workload))


async def feed(
    batch: BatchFile,
    engine: Engine,
    spool: RequestSpool,
    schedule: Schedule,
    results: Results,
    progress: Progress,
    *,
    window: int,
) -> None:
    """Run all requests in planned order, at most `window` at a time; write each as it finishes.

    Raises:
        EngineError: the engine died; what had finished is written.
        asyncio.CancelledError: interrupted; the same.
    """
    free = asyncio.Semaphore(window)

    async def run_one(row: int) -> None:
        try:
            offset, number = spool.position(row)
            line = batch.line(offset, number)
            answer = await engine.answer(line, spool.token_ids(row))
            results.answer(line, answer)
            progress.add(answer.prompt_tokens + answer.output_tokens)
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as group:
            for row in schedule.sequence.tolist():
                await free.acquire()
                group.create_task(run_one(row))
    except BaseExceptionGroup as failures:  # the first failure cancelled the others
        raise failures.exceptions[0] from failures
    finally:
        results.sync()
