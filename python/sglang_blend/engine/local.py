"""The engine of a job on this machine: the nursery, the prepare workers and a supervised engine host.

with LocalEngine(engine_argv, log=path, num_prepare_workers=2) as engine:   # the flags are accepted
    for line, prepared in engine.prepare(lines): ...                        # meanwhile the model loads
    async with engine:                                                      # it is loaded
        answer = await engine.answer(Ask(line, token_ids))
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_blend.core import RequestTable
from sglang_blend.engine.host_run import HostRun
from sglang_blend.engine.messages import Ask
from sglang_blend.engine.nursery import Nursery
from sglang_blend.engine.prepare_pool import PreparePool
from sglang_blend.engine.supervisor import Supervisor, SupervisorConfig
from sglang_blend.plan.feed import WindowFeeder
from sglang_blend.request import Answer, BatchLine, Failure, Prepared, Rejection

# With DP attention SGLang 0.5.17 takes ports from `--port` on, further ones by these numbers
# (`PortArgs.init_new`): two engines with the same flags on one machine would take the same.
_NEEDS_PORTS, _LEAST_OFFSET, _MOST_OFFSET = "--enable-dp-attention", 233, 240


def with_own_port(engine_argv: Sequence[str]) -> list[str]:
    """SGLang's flags; where it would take ports by the default of a flag, that flag names free ones."""
    argv = list(engine_argv)
    if _NEEDS_PORTS not in argv or any(word.split("=")[0] == "--port" for word in argv):
        return argv
    for port in random.sample(range(20_000, 60_000), 100):
        if all(map(_is_free, range(port + _LEAST_OFFSET, port + _MOST_OFFSET))):
            return [*argv, "--port", str(port)]
    return argv


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class LocalEngine(Supervisor):
    """`protocol.Engine` on real SGLang, with `answer`. A context manager: no process is left behind."""

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
        self._argv = with_own_port(engine_argv)
        self._stats_file = stats_file
        self._nursery = Nursery(log)
        with self._nursery.closed_by_errors():
            self._first_run = HostRun(self._nursery, self._argv, stats_file)
            self._pool = PreparePool(
                self._nursery, self._argv, num_workers=num_prepare_workers, check=self._check_first_run
            )
        super().__init__(self._first_run, self._start_another_run, supervision or SupervisorConfig())

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._nursery.close()

    async def __aenter__(self) -> LocalEngine:
        """The workers have done their part by now; their memory and cores are the engine's."""
        self._pool.close()
        await super().__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        self._nursery.kill()  # ends the start of another run, which waits in a thread

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """See `protocol.Engine`.

        Raises:
            EngineError: meanwhile the engine died at its start, or the workers one after the other.
        """
        return self._pool.prepare(lines)

    def feeder(self, table: RequestTable, window: int) -> WindowFeeder:
        """See `protocol.Engine`."""

        async def ask(row: int, line: BatchLine, hints: dict[str, Any] | None) -> Answer | Failure:
            return await self.answer(Ask(line, table.prompt(row), hints))

        return WindowFeeder(ask, window)

    def record(self) -> dict[str, Any]:
        """See `protocol.Engine`."""
        return {}

    def _check_first_run(self) -> None:
        """A start that failed, and would again, makes all further preparation useless."""
        if self._first_run.is_dead() and not (death := self._first_run.end()).may_pass:
            raise death

    async def _start_another_run(self) -> HostRun:
        self._nursery.revive()
        return await asyncio.to_thread(HostRun, self._nursery, self._argv, self._stats_file)
