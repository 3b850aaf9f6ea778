"""A job from its files to its summary: the steps of `runner`, with an engine started only when needed."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_blend.blotting import without_secrets
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.console import counted
from sglang_blend.engine.protocol import Engine
from sglang_blend.errors import EngineError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.checkpoint import Checkpoint
from sglang_blend.job.engine_flags import refuse_flags
from sglang_blend.job.line_index import LineIndex
from sglang_blend.job.plan_facts import plan_facts, text_of_body
from sglang_blend.job.progress import Progress
from sglang_blend.job.result_file import parts_folder
from sglang_blend.job.results import Results
from sglang_blend.job.run_record import RunRecord
from sglang_blend.job.spool import RequestSpool
from sglang_blend.job.steps import prepare, run_planned
from sglang_blend.job.stop import Interrupted, Stop
from sglang_blend.job.summary import Summary, Tally
from sglang_blend.location import in_words, size_of
from sglang_blend.plan.job_plan import JobPlan

logger = logging.getLogger(__name__)

# What a healthy engine takes to tell its totals; a dying one may take longer and is not waited for.
LAST_QUESTION_S = 5.0


class OfflineJob:
    """One run of one batch file. However it ends, the summary goes with the records that were written."""

    def __init__(
        self, config: JobConfig, stop: Stop | None = None, *, engine_argv: Sequence[str] = ()
    ) -> None:
        """Make a job; nothing is read yet.

        Args:
            stop: hears the signals that end the job early; without one nothing does.
            engine_argv: SGLang's flags, which tell whether an earlier run was of the same job.
        """
        self._config = config
        self._engine_argv = engine_argv
        self._stop = stop or Stop()
        self._engine: Engine | None = None  # kept for its counters
        self.files = resolve_files(config)
        self._tally = Tally()
        self._earlier = Tally()  # set by run
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._started_at = 0.0  # set by run
        self._num_lines = 0
        self._plan: JobPlan | None = None
        self._record: RunRecord | None = None  # these two are set by _generate
        self._schedulers: list[dict[str, Any]] = []
        self._complete = False
        self.was_finished = False  # by an earlier run, so that this one did nothing; set by run

    def run(self, start_engine: Callable[[], Engine], *, check: Callable[[], None] | None = None) -> Summary:
        """Run the job to its end, or until it is interrupted; go on where an earlier run of it stopped.

        Args:
            start_engine: called once, and only when there is something to run.
            check: a last look at the environment, before any result file is created.

        Raises:
            InputError: the batch file cannot be used.
            ConfigError: a result file is another job's or cannot be written, or a flag is wrong.
            EngineError: the engine did not start, or died; what had finished is in the files.
            OutputError: a result cannot be written any more; what had finished before is in the files.
        """
        self._started_at = time.monotonic()
        refuse_flags(self._engine_argv)
        checkpoint = Checkpoint(self._config, self.files, self._engine_argv)
        finished = checkpoint.finished()
        if finished is not None:
            return self._finished_earlier(finished)
        with (
            self._no_empty_folders(),
            BatchFile(self._config.file, self.files.work_dir, self._config.reading) as batch,
        ):
            if check is not None:
                check()
            logger.info("Reading %s.", batch.path)
            output = checkpoint.output
            try:
                with output:
                    with self._timed("read"):
                        checkpoint.identify(batch)
                        index = LineIndex.build(batch)
                        if not index.has_custom_ids:
                            batch.refuse_other_texts()
                        self._num_lines = len(index)
                        self._earlier = checkpoint.recover(index)
                    self._run_lines(batch, index, checkpoint, start_engine)
                    if self._num_not_run == 0:
                        self._finish(batch, index, checkpoint)
            except (Interrupted, asyncio.CancelledError):
                logger.info("Interrupted.")
            finally:
                summary = self._summary(complete=self._complete)
                if not self._complete and output.num_records:
                    logger.info(
                        "%s in %s; the same command goes on from there.",
                        counted(summary.ok, "answer"), checkpoint.growing,
                    )  # fmt: skip
                if self._complete or output.num_records:
                    self._save(summary)
                elif checkpoint.is_open:
                    checkpoint.forget()
                    self._forget_records()
        return summary

    def _run_lines(
        self,
        batch: BatchFile,
        index: LineIndex,
        checkpoint: Checkpoint,
        start_engine: Callable[[], Engine],
    ) -> None:
        num_refused = len(index) - self._earlier.total - index.num_pending
        logger.info(
            "%s: %s, %d finished earlier, %d refused, %s to run.",
            batch.path, counted(len(index), "line"), self._earlier.total, num_refused,
            counted(index.num_pending, "request"),
        )  # fmt: skip
        with ExitStack() as stack:
            if index.num_pending:
                with self._timed("start_engine"):
                    self._engine = start_engine()
                stack.enter_context(self._engine)
            # SGLang has accepted its flags: only now does anything change that earlier runs left.
            if not self._earlier.total:
                self._forget_records()
            checkpoint.open()
            results = Results(checkpoint.output, self._tally)
            for rejection in index.refused():
                results.refuse(rejection)
            if self._engine is not None:
                self._run_requests(batch, self._engine, index, results)

    def _finish(self, batch: BatchFile, index: LineIndex, checkpoint: Checkpoint) -> None:
        """The job is complete when its files are, and only then."""
        batch.check_unchanged()
        tally = self._earlier + self._tally
        with self._timed("finish"):
            checkpoint.finish_files(index, tally)
            checkpoint.finish(self._summary(complete=True), tally.num_unsettled)
        self._complete = True
        checkpoint.clean_up()

    def _run_requests(self, batch: BatchFile, engine: Engine, index: LineIndex, results: Results) -> None:
        with RequestSpool(self.files.work_dir) as spool:
            with self._timed("prepare"):
                with Progress("tokenizing", index.num_pending) as progress:
                    prepare(index.accepted(), engine, spool, results, progress)
                if not len(spool):
                    return
            try:
                asyncio.run(self._generate(batch, engine, spool, results))
            finally:
                self._write_record(batch, engine, spool)

    async def _generate(
        self, batch: BatchFile, engine: Engine, spool: RequestSpool, results: Results
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        with self._stop.calls(task.cancel):
            async with AsyncExitStack() as stack:
                logger.info("Loading the model.")
                with self._timed("start_engine"):
                    await stack.enter_async_context(engine)
                facts = engine.facts()
                logger.info(
                    "The model is loaded: room for %s of KV, %s at once.",
                    counted(facts.kv_pool_tokens, "token"), counted(facts.max_running_requests, "request"),
                )  # fmt: skip
                with self._timed("prepare"):
                    plan = JobPlan(spool.table(), facts, order=self._config.order)
                self._plan = plan
                self._record = RunRecord(self.files.runs_file)
                try:
                    window = self._config.window_for(facts.max_running_requests)
                    with self._timed("generate"), Progress("planning", len(spool)) as progress:
                        await run_planned(
                            batch, engine, spool, plan, results, progress,
                            feeder=engine.feeder(plan.table, window),
                            stop=self._stop,
                            drain_timeout_s=self._config.drain_timeout,
                            record=self._record,
                        )  # fmt: skip
                finally:
                    await self._ask_schedulers(engine)

    async def _ask_schedulers(self, engine: Engine) -> None:
        """Their totals, while they are there; the question also makes them write their last steps."""
        with contextlib.suppress(EngineError, TimeoutError):
            async with asyncio.timeout(LAST_QUESTION_S):
                self._schedulers = [state.get("blend", {}) for state in await engine.server_info()]

    def _write_record(self, batch: BatchFile, engine: Engine, spool: RequestSpool) -> None:
        """What the report needs of this run; nothing of one that ended before it had a plan."""
        plan, tally = self._plan, self._tally
        if self._record is None or plan is None or not plan.is_made:
            return

        def text_of_row(row: int) -> str:
            return text_of_body(batch.line(*spool.position(row)).body)

        end = {
            "ended_at": time.time(),
            "seconds": dict(self._seconds) | {"plan": plan.plan_s},
            "ok": tally.ok,
            "failed": tally.failed,
            "prompt_tokens": tally.prompt_tokens,
            "cached_tokens": tally.cached_tokens,
            "output_tokens": tally.output_tokens,
            "num_sampled": len(plan.sample),
            "num_restarts": engine.num_restarts,
            "schedulers": self._schedulers,
            "engine_argv": without_secrets(self._engine_argv),
            **engine.record(),
        }
        self._record.write(lambda: plan_facts(plan, text_of_row), end)

    def _forget_records(self) -> None:
        """What earlier jobs of the same name left for a report is not this one's."""
        steps = self.files.steps_file
        other_ranks = steps.parent.glob(f"{glob.escape(steps.name)}.[0-9]*")
        for path in (steps, *other_ranks, self.files.runs_file, self.files.report_file):
            with contextlib.suppress(OSError):  # whoever cannot write there is told so where it matters
                path.unlink(missing_ok=True)

    @contextmanager
    def _no_empty_folders(self) -> Iterator[None]:
        """Folders that were made for files which then were not written do not stay."""
        files = self.files
        places = (files.output, files.error_file, files.summary_file, files.work_dir / "temporary")
        folders = {f for place in places if isinstance(place, Path) for f in place.parents if not f.exists()}
        try:
            yield
        finally:
            for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
                with contextlib.suppress(OSError):  # there is something in it
                    folder.rmdir()

    @property
    def _num_not_run(self) -> int:
        return self._num_lines - self._earlier.total - self._tally.total

    def _summary(self, *, complete: bool) -> Summary:
        tally = self._earlier + self._tally
        made, stopped_by = self._plan, self._stop.first_signal
        output = self.files.output
        planned = made if made is not None and made.is_made else None
        return Summary(
            file=in_words(self.files.file),
            output=in_words(parts_folder(output) if self._config.sharded_output else output),
            error_file=in_words(self.files.error_file),
            order=planned.schedule.order if planned else self._config.order,
            order_reason=planned.schedule.reason if planned else "",
            sampled=len(made.sample) if made else 0,
            sample_skipped=made.sample_skipped if made else "",
            complete=complete,
            ok=tally.ok,
            failed=tally.failed,
            failed_by_code=dict(tally.failed_by_code),
            not_run=self._num_not_run,
            resumed_ok=self._earlier.ok,
            resumed_failed=self._earlier.failed,
            stopped_by=stopped_by.name if stopped_by and not complete else None,
            num_replicas=made.engine_facts.num_replicas if made and made.engine_facts else 1,
            num_restarts=self._engine.num_restarts if self._engine else 0,
            num_retries=self._engine.num_retries if self._engine else 0,
            prompt_tokens=tally.prompt_tokens,
            cached_tokens=tally.cached_tokens,
            output_tokens=tally.output_tokens,
            run_tokens=self._tally.prompt_tokens + self._tally.output_tokens,
            sharing_possible=made.tree.sharing_possible if made else 0.0,
            sharing_kept_planned=planned.schedule.sharing_kept if planned else 1.0,
            read_s=self._seconds["read"],
            start_engine_s=self._seconds["start_engine"],
            prepare_s=self._seconds["prepare"],
            generate_s=self._seconds["generate"],
            wall_s=time.monotonic() - self._started_at,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            config=self._config.to_json(),
        )

    def _finished_earlier(self, summary: Summary) -> Summary:
        """The same counts, with nothing done by this run."""
        logger.info("%s: finished earlier, nothing to do.", self.files.output)
        self.was_finished = True
        again = replace(
            summary,
            resumed_ok=summary.ok,
            resumed_failed=summary.failed,
            run_tokens=0,
            read_s=0.0,
            start_engine_s=0.0,
            prepare_s=0.0,
            generate_s=0.0,
            wall_s=time.monotonic() - self._started_at,
            config=self._config.to_json(),
        )
        if size_of(self.files.summary_file) is None:
            self._save(summary)
        return again

    def _save(self, summary: Summary) -> None:
        """The summary is said on the screen too: where it cannot be saved, the results still count."""
        try:
            summary.save(self.files.summary_file)
        except OSError as e:
            logger.error("%s cannot be written (%s).", self.files.summary_file, e.strerror or e)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - start
