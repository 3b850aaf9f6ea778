"""One offline job: prepare all lines, plan them, feed the engine in that order.

    lines -> prepare (tokens into the spool) -> sample -> plan -> feed with a bounded window -> write

Every line ends as exactly one record, in the output or in the error file. Interrupted, the job keeps what
is finished and says how many requests did not run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from sglang_blend.console import counted
from sglang_blend.engine.protocol import Engine
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.progress import Progress
from sglang_blend.job.results import Results
from sglang_blend.job.run_record import RunRecord
from sglang_blend.job.spool import RequestSpool
from sglang_blend.job.stop import Stop
from sglang_blend.plan.feed import Feeder, Phase, RunRow
from sglang_blend.plan.job_plan import JobPlan
from sglang_blend.request import BatchLine, Failure, Rejection

logger = logging.getLogger(__name__)


def prepare(
    lines: Iterable[BatchLine], engine: Engine, spool: RequestSpool, results: Results, progress: Progress
) -> None:
    """Tokenize every line; refuse those whose body the engine does not take."""
    for line, prepared in engine.prepare(lines):
        if isinstance(prepared, Rejection):
            results.refuse(prepared)
        else:
            spool.append(line, prepared)
        progress.add()


async def run_planned(
    batch: BatchFile,
    engine: Engine,
    spool: RequestSpool,
    plan: JobPlan,
    results: Results,
    progress: Progress,
    *,
    feeder: Feeder,
    stop: Stop,
    drain_timeout_s: float,
    send_hints: bool = True,
    record: RunRecord | None = None,
) -> None:
    """Run the sample, plan, run the rest in planned order; write each request as it finishes.

    When `stop` hears a signal, no more are started
    and those in flight have `drain_timeout_s` to finish; at the second signal they are given up. Then some
    requests have no record, which is all the caller sees of it.

    Args:
        feeder: hands the requests to the engine, or to several.
        record: notes what the report tells of each request.

    Raises:
        EngineError: the engine died for good; what had finished is written.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)
    num_in_flight = 0

    def is_stopping() -> bool:
        return limit.when() is not None

    def on_signal() -> None:
        if is_stopping():
            limit.reschedule(loop.time())
            return
        logger.info(
            "Stopping: waiting %.0f s at most for what is in flight, %s.",
            drain_timeout_s, counted(num_in_flight, "request"),
        )  # fmt: skip
        limit.reschedule(loop.time() + drain_timeout_s)
        feeder.wake()

    async def run_one(row: int, run_row: RunRow) -> None:
        nonlocal num_in_flight
        num_in_flight += 1
        await answer_one(row, run_row)
        num_in_flight -= 1  # of those that are cancelled, the count is told below

    async def answer_one(row: int, run_row: RunRow) -> None:
        offset, number = spool.position(row)
        line = batch.line(offset, number)
        hints = plan.hints(row)
        submitted = time.monotonic()
        answer = await run_row(row, line, hints if takes_hints else None)
        if isinstance(answer, Failure):
            results.fail(line, answer)
            progress.add(work=plan.work(row))
            return
        results.answer(line, answer)
        if answer.status_code == 200:
            plan.observe(row, answer.output_tokens)
            if record is not None:
                record.add(submitted, answer, hints=hints, max_new_tokens=int(plan.table.max_new_tokens[row]))
        progress.add(answer.prompt_tokens + answer.output_tokens, plan.work(row))

    def on_phase(phase: Phase) -> None:
        if phase is Phase.RUN:
            logger.info("Planned in %.1f s: %s.", plan.plan_s, plan.in_words)
            sampled_work = sum(map(plan.work, plan.sample.tolist()))
            progress.begin(phase.value, plan.total_work - sampled_work)
        else:
            progress.begin(phase.value)

    takes_hints = send_hints and engine.facts().takes_hints
    try:
        with stop.calls(on_signal):
            async with limit:
                await feeder.feed(plan, run_one, is_stopping, on_phase)
    except TimeoutError:
        logger.info(
            "What was still in flight is given up: %s, for the same command to run again (--drain-timeout"
            " waits longer).",
            counted(num_in_flight, "request"),
        )
    finally:
        results.sync()
