"""Keeps an engine running: notices that it died or hangs, starts another one, and runs its requests again.

    async with Supervisor(first_run, start_another, SupervisorConfig()) as engine:
        answer = await engine.answer(Ask(line, token_ids))     # as often as it takes

A request that kills the engine becomes a `Failure` (`suspects` says which one it is). A job is hopeless when
the engine dies time after time and not one request is finished in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from sglang_blend.console import counted
from sglang_blend.engine.messages import Ask
from sglang_blend.engine.restarts import Restarts
from sglang_blend.engine.suspects import Suspects
from sglang_blend.errors import EngineDied, EngineError
from sglang_blend.request import Answer, EngineFacts, Failure

logger = logging.getLogger(__name__)

# An engine compiles and captures while it works on its first requests.
FIRST_ANSWER_PATIENCE = 3
# Of the patience with a silent engine: how much later than due a look at it may come.
_LATE_RATIO = 0.1


class EngineRun(Protocol):
    """One run of the engine, from its start to its death. `host_run.HostRun` is the real one."""

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of progress: a step or a token; while it starts, a word in its log."""

    async def ready(self) -> None:
        """Wait until it can answer; raises EngineDied."""

    def facts(self) -> EngineFacts:
        """What planning needs to know; after `ready`."""

    async def died(self) -> None:
        """Wait for its death."""

    async def answer(self, ask: Ask) -> Answer:
        """Run one request; raises EngineDied."""

    async def server_info(self) -> list[dict[str, Any]]:
        """As `Supervisor.server_info`; raises EngineDied."""

    async def flush_cache(self) -> bool:
        """As `Supervisor.flush_cache`; raises EngineDied."""

    async def close(self) -> EngineDied:
        """Kill what is left of it, wait until that is gone, and tell how it ended; may be called again."""


@dataclass(frozen=True, kw_only=True)
class SupervisorConfig:
    """Times in seconds. `max_restarts` counts restarts between which not one request is done with.

    `start_timeout_s` is for a start without a word in the log: weights may come over a slow network.
    """

    start_timeout_s: float = 1800.0
    hang_timeout_s: float = 600.0
    max_restarts: int = 10
    first_backoff_s: float = 1.0
    check_interval_s: float = 1.0


class Supervisor:
    """An engine that outlives its deaths. An async context manager; entering waits for the first start."""

    def __init__(
        self, first: EngineRun, start: Callable[[], Awaitable[EngineRun]], config: SupervisorConfig
    ) -> None:
        """Args: first: a run that was started. start: starts another one; it may raise EngineDied."""
        self.num_restarts = 0
        self.num_retries = 0
        self._config = config
        self._start = start
        self._run: EngineRun | None = None  # the one that answers
        self._starting: EngineRun | None = first
        self._in_flight: dict[int, None] = {}  # an ordered set, as the next
        self._unfinished: dict[int, None] = {}
        self._in_flight_at_death: list[int] = []
        self._busy_from = 0.0  # when the engine last had nothing to do
        self._awake_from = 0.0  # when this process last was suspended, and the engine with it
        self._restarts = Restarts(config.max_restarts, config.first_backoff_s)
        self._suspects = Suspects()
        self._guilty: set[Hashable] = set()
        self._num_answers = 0
        self._hopeless: EngineError | None = None
        self._changed = asyncio.Event()
        self._facts: EngineFacts  # these two are set by __aenter__
        self._keeping: asyncio.Task[None]
        self._next_number = 0

    async def __aenter__(self) -> Supervisor:
        first = self._starting
        assert first is not None, "entered twice"
        run = await self._ready_after_all(first)
        self._keeping = asyncio.create_task(self._keep(run))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        for run in (self._run, self._starting):
            if run is not None:
                await run.close()

    def facts(self) -> EngineFacts:
        """What planning needs to know; the same whichever run answers."""
        return self._facts

    async def answer(self, ask: Ask) -> Answer | Failure:
        """Run one request to its end, in as many engines as it takes; many run at once in one event loop.

        Raises:
            EngineError: the job is hopeless; no request can be answered any more.
        """
        number = self._next_number
        self._next_number += 1
        self._unfinished[number] = None
        num_tries = 0
        try:
            while (run := await self._turn(number)) is not None:
                num_tries += 1
                self.num_retries += num_tries > 1
                try:
                    answer = await run.answer(ask)
                    self._num_answers += 1
                    self._restarts.was_fruitful()
                    return answer
                except EngineDied:
                    self._freeze(run)
                finally:
                    self._in_flight.pop(number, None)
            return Failure("engine_crash", f"the engine died at this request, {counted(num_tries, 'time')}.")
        finally:
            del self._unfinished[number]
            self._guilty.discard(number)
            if self._suspects.finished(number):
                self._tell()

    async def server_info(self) -> list[dict[str, Any]]:
        """State of each scheduler; raises EngineError while none runs."""
        return await self._running().server_info()

    async def flush_cache(self) -> bool:
        """Whether the cache was flushed; raises EngineError while no engine runs."""
        return await self._running().flush_cache()

    def _running(self) -> EngineRun:
        if self._run is None:
            raise EngineError("the engine is being restarted.")
        return self._run

    async def _turn(self, number: int) -> EngineRun | None:
        """Wait until there is an engine and this request may run on it; None if it is found guilty."""
        while self._run is None or not self._suspects.may_run(number):
            if number in self._guilty:
                return None
            if self._hopeless is not None:
                raise self._hopeless
            await self._changed.wait()
        if not self._in_flight:
            self._busy_from = time.monotonic()
        self._in_flight[number] = None
        return self._run

    def _tell(self) -> None:
        """Wake everybody who waits in `_turn`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _ready_after_all(self, first: EngineRun) -> EngineRun:
        """The first run, or one after it: a port was taken, a GPU not free yet, a hub did not answer.

        Raises:
            EngineError: none starts, or one after the other says the same.
        """
        try:
            await self._become_ready(first)
            return first
        except EngineDied as e:
            if not e.may_pass:
                raise
            run = await self._start_another(e, until_told_again=True)
        if run is None:
            assert self._hopeless is not None, "else there is a run"
            raise self._hopeless
        return run

    async def _look(self, event: asyncio.Task[None], patience_s: float) -> bool:
        """Wait for an event until it is time to look at the clock again; whether it came.

        Where that was much later than due, this process was suspended (SIGSTOP, a frozen container): what
        stood still then does not count.
        """
        start = time.monotonic()
        done, _ = await asyncio.wait([event], timeout=self._config.check_interval_s)
        now = time.monotonic()
        late_s = now - start - self._config.check_interval_s
        if late_s > max(self._config.check_interval_s, _LATE_RATIO * patience_s):
            self._awake_from = now
        return bool(done)

    async def _become_ready(self, run: EngineRun) -> None:
        self._starting = run
        becoming = asyncio.create_task(run.ready())
        hang = ""
        try:
            while not hang and not await self._look(becoming, self._config.start_timeout_s):
                silent_s = min(run.silent_s, time.monotonic() - self._awake_from)
                if silent_s > self._config.start_timeout_s:
                    hang = f"the engine's start stood still for {silent_s:.0f} s and was stopped: "
            if not hang:
                becoming.result()
        except EngineDied:
            raise await run.close() from None
        finally:
            becoming.cancel()
        if hang:
            raise EngineDied(f"{hang}{await run.close()}", may_pass=True)
        self._starting, self._run, self._facts = None, run, run.facts()
        self._tell()

    async def _keep(self, run: EngineRun) -> None:
        """Watch the run until it dies, start another, and so on."""
        current: EngineRun | None = run
        try:
            while current is not None:
                hang = await self._watch(current)
                self._freeze(current)
                death = await current.close()
                self._blame(from_outside=death.from_outside and not hang)
                current = await self._start_another(EngineDied(f"{hang}{death}", may_pass=True))
        except Exception as e:  # whatever it is, those who wait for an engine must hear of it
            logger.exception("The engine cannot be started again.")
            self._give_up(EngineError(f"the engine cannot be started again: {type(e).__name__}: {e}"))

    async def _watch(self, run: EngineRun) -> str:
        """Until it is dead or hangs; returns what there is to say of a hang."""
        dying = asyncio.create_task(run.died())
        try:
            while not await self._look(dying, self._config.hang_timeout_s):
                patience = 1 if self._num_answers else FIRST_ANSWER_PATIENCE
                silent_s = min(run.silent_s, time.monotonic() - max(self._busy_from, self._awake_from))
                if self._in_flight and silent_s > self._config.hang_timeout_s * patience:
                    return f"the engine made no progress for {silent_s:.0f} s and was stopped: "
        finally:
            dying.cancel()
        return ""

    def _freeze(self, run: EngineRun) -> None:
        """The first to see that a run is dead notes who is in flight: all of them are still there."""
        if run is self._run:
            self._run = None
            self._in_flight_at_death = list(self._in_flight)

    def _blame(self, *, from_outside: bool) -> None:
        """When it is known how a run ended: find out whether somebody is guilty of it."""
        requests = [number for number in self._in_flight_at_death if number in self._unfinished]
        guilty = self._suspects.died(requests, from_outside=from_outside)
        if guilty is not None:
            self._guilty.add(guilty)
            self._restarts.was_fruitful()  # the job is one request further
        self._tell()

    async def _start_another(self, death: EngineError, *, until_told_again: bool = False) -> EngineRun | None:
        """Try until an engine runs; None when the job is hopeless.

        Args:
            until_told_again: it is also when two tries end with the same words.
        """
        while (wait_s := self._restarts.next_wait_s()) is not None:
            logger.warning("%s\nStarting it again in %.0f s.", death, wait_s)
            await asyncio.sleep(wait_s)
            self.num_restarts += 1
            try:
                run = await self._start()
                await self._become_ready(run)
                return run
            except EngineError as e:
                if until_told_again and str(e) == str(death):
                    self._give_up(e)
                    return None
                death = e
        self._give_up(
            EngineError(
                f"the engine died {counted(self._restarts.most + 1, 'time')} and finished no request in "
                f"between; what had finished before is in the output file. The last time: {death}",
                may_pass=True,
            )
        )
        return None

    def _give_up(self, error: EngineError) -> None:
        self._hopeless = error
        self._tell()
