"""The engine of a job: the nursery, the prepare workers and a supervised engine host.

with OfflineEngine(engine_argv, log=path) as engine:      # SGLang's flags are checked; the model loads
    for line, prepared in engine.prepare(lines): ...      # meanwhile
    async with engine:                                    # the model is loaded
        answer = await engine.answer(line, token_ids)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_blend.errors import ConfigError
from sglang_blend.job.feeding import Feeder, WindowFeeder
from sglang_blend.job.spool import RequestSpool
from sglang_blend.job.supervisor import Supervisor, SupervisorConfig
from sglang_blend.processes.engine_run import EngineRun
from sglang_blend.processes.nursery import Nursery
from sglang_blend.processes.prepare_pool import PreparePool
from sglang_blend.request import (
    Answer,
    BatchLine,
    EngineFacts,
    Failure,
    Prepared,
    Rejection,
)


class OfflineEngine:
    """`job.engine.RunningEngine` on real SGLang. A context manager: no process is left behind."""

    def __init__(
        self,
        engine_argv: Sequence[str],
        *,
        log: Path,
        stats_file: Path | None = None,
        num_prepare_workers: int,
        supervision: SupervisorConfig | None = None,
    ) -> None:
        """Start the processes; returns when SGLang has accepted its flags, before the model is loaded.

        Args:
            engine_argv: SGLang's server flags.
            log: where the processes say what they have to say.
            stats_file: where the schedulers append what they do, step by step; None for nowhere.

        Raises:
            ConfigError: SGLang refuses the flags.
            EngineError: a process died on the way.
        """
        self._argv = list(engine_argv)
        self._stats_file = stats_file
        self._nursery = Nursery(log)
        try:
            self._first_run = EngineRun(self._nursery, self._argv, stats_file)
            self._pool = PreparePool(
                self._nursery, self._argv, num_workers=num_prepare_workers, check=self._check_first_run
            )
        except ConfigError:
            self._nursery.close_and_forget()  # the error says it all
            raise
        except BaseException:
            self._nursery.close()
            raise
        self._supervisor = Supervisor(
            self._first_run, self._start_another_run, supervision or SupervisorConfig()
        )

    @property
    def num_restarts(self) -> int:
        return self._supervisor.num_restarts

    @property
    def num_retries(self) -> int:
        return self._supervisor.num_retries

    def __enter__(self) -> OfflineEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._nursery.close()

    async def __aenter__(self) -> OfflineEngine:
        """The workers have done their part by now; their memory and cores are the engine's."""
        self._pool.close()
        await self._supervisor.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._supervisor.__aexit__(*exc)
        self._nursery.kill()  # ends the start of another run, which waits in a thread

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """See `job.engine.Engine`.

        Raises:
            EngineError: meanwhile the engine died at its start, or the workers one after the other.
        """
        return self._pool.prepare(lines)

    def facts(self) -> EngineFacts:
        """See `job.engine.Engine`."""
        return self._supervisor.facts()

    def feeder(self, spool: RequestSpool, window: int) -> Feeder:
        """See `job.engine.Engine`."""

        async def ask(row: int, line: BatchLine, hints: dict[str, Any] | None) -> Answer | Failure:
            return await self.answer(line, spool.token_ids(row), hints)

        return WindowFeeder(ask, window)

    async def answer(
        self, line: BatchLine, token_ids: Sequence[int], hints: dict[str, Any] | None = None
    ) -> Answer | Failure:
        """Run one request to its end; many run at once in one event loop.

        Args:
            token_ids: those that `prepare` returned.
            hints: what the plan says about the request (`scheduling.hints`), for the scheduler.

        Raises:
            EngineError: the engine died for good; no request can be answered any more.
        """
        return await self._supervisor.answer(line, token_ids, hints)

    def record(self) -> dict[str, Any]:
        """See `job.engine.RunningEngine`."""
        return {}

    async def server_info(self) -> list[dict[str, Any]]:
        """See `job.engine.Engine`."""
        return await self._supervisor.server_info()

    async def flush_cache(self) -> bool:
        """See `job.engine.Engine`."""
        return await self._supervisor.flush_cache()

    def _check_first_run(self) -> None:
        """A start that failed makes all further preparation useless."""
        if self._first_run.is_dead():
            raise self._first_run.end()

    async def _start_another_run(self) -> EngineRun:
        self._nursery.revive()
        return await asyncio.to_thread(EngineRun, self._nursery, self._argv, self._stats_file)
