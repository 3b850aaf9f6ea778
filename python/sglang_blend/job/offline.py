"""A job from its files to its summary: the steps of `runner`, with an engine started only when needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.job.engine import Engine
from sglang_blend.job.input import BatchFile
from sglang_blend.job.output import JobOutput
from sglang_blend.job.progress import Progress
from sglang_blend.job.results import Results
from sglang_blend.job.runner import Plan, count_lines, feed, plan, prepare
from sglang_blend.job.spool import RequestSpool
from sglang_blend.job.summary import Summary, Tally

logger = logging.getLogger(__name__)
T = TypeVar("T")


class RunningEngine(Engine, Protocol):
    """An engine that was started: a context manager that stops it, and owner of the event loop."""

    def __enter__(self) -> RunningEngine: ...

    def __exit__(self, *exc: object) -> None: ...

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that awaits `answer`; SIGINT and SIGTERM cancel it."""


class OfflineJob:
    """One run of one batch file. However it ends, the summary goes with the records that were written."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._files = resolve_files(config)
        self._tally = Tally()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._started_at = 0.0  # set by run
        self._num_lines = 0
        self._plan: Plan | None = None
        self._complete = False

    def run(
        self, start_engine: Callable[[], RunningEngine], *, check: Callable[[], None] | None = None
    ) -> Summary:
        """Run the job to its end, or until it is interrupted.

        Args:
            start_engine: called once, and only when there is something to run.
            check: a last look at the environment, before any result file is created.

        Raises:
            InputError: the batch file cannot be used.
            ConfigError: a result file exists or cannot be written, or a flag is wrong.
            EngineError: the engine did not start, or died; what had finished is in the files.
        """
        self._started_at = time.monotonic()
        with BatchFile(self._config.file) as batch:
            if check is not None:
                check()
            output = JobOutput(self._files.output, self._files.error_file, overwrite=self._config.overwrite)
            try:
                with output:
                    self._run_lines(batch, Results(output, self._tally), start_engine)
                self._complete = True
            except asyncio.CancelledError:
                logger.info("Interrupted; what had finished is written.")
            finally:
                summary = self._summary()
                if self._complete or output.num_records:
                    summary.save(self._files.summary_file)
        return summary

    def _run_lines(
        self, batch: BatchFile, results: Results, start_engine: Callable[[], RunningEngine]
    ) -> None:
        num_requests = count_lines(batch, results)
        self._num_lines = num_requests + self._tally.failed
        logger.info("%s: %d requests, %d lines refused.", batch.path, num_requests, self._tally.failed)
        if num_requests:
            with self._timed("start_engine"):
                engine = start_engine()
            with engine:
                self._run_requests(batch, engine, results, num_requests)

    def _run_requests(
        self, batch: BatchFile, engine: RunningEngine, results: Results, num_requests: int
    ) -> None:
        with RequestSpool() as spool:
            with self._timed("prepare"):
                with Progress("preparing", num_requests) as progress:
                    prepare(batch, engine, spool, results, progress)
                if not len(spool):
                    return
                self._plan = plan(spool, order=self._config.order)
            with self._timed("generate"), Progress("running", len(spool)) as progress:
                window, schedule = self._config.window, self._plan.schedule
                engine.run(feed(batch, engine, spool, schedule, results, progress, window=window))

    def _summary(self) -> Summary:
        tally, made = self._tally, self._plan
        return Summary(
            file=str(self._files.file),
            output=str(self._files.output),
            error_file=str(self._files.error_file),
            order=self._config.order,
            complete=self._complete,
            ok=tally.ok,
            failed=tally.failed,
            failed_by_code=dict(tally.failed_by_code),
            not_run=self._num_lines - tally.ok - tally.failed,
            prompt_tokens=tally.prompt_tokens,
            cached_tokens=tally.cached_tokens,
            output_tokens=tally.output_tokens,
            sharing_possible=made.workload.tree.sharing_possible if made else 0.0,
            sharing_kept_planned=made.schedule.sharing_kept if made else 1.0,
            start_engine_s=self._seconds["start_engine"],
            prepare_s=self._seconds["prepare"],
            generate_s=self._seconds["generate"],
            wall_s=time.monotonic() - self._started_at,
            config=self._config.to_json(),
        )

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - start
