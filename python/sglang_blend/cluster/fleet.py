"""The replicas of a job, kept at their number: those that are lost are replaced while that is possible.

    async with Fleet(num_replicas, start, max_restarts=10) as fleet:       # the first is ready
        replica = await fleet.replica(slot)                                # None: its place stays empty
        answer = await replica.answer(row, line, hints)                    # raises ReplicaLost

Knows nothing of Ray: `start` starts the replica of a place and waits until it is ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from sglang_blend.cluster.window import ReplicaLoad
from sglang_blend.console import counted
from sglang_blend.engine.restarts import Restarts
from sglang_blend.errors import ConfigError, EngineError
from sglang_blend.request import Answer, BatchLine, EngineFacts, Failure

logger = logging.getLogger(__name__)


class ReplicaLost(EngineError):
    """A replica is gone, with its process or its machine; what it was at has to run elsewhere."""


class Replica(Protocol):
    """An engine that is ready."""

    @property
    def facts(self) -> EngineFacts:
        """What planning needs to know of it."""

    @property
    def load(self) -> ReplicaLoad | None:
        """What it was last known to run; None before it has told."""

    @property
    def num_answers(self) -> int:
        """Requests that it has answered."""

    @property
    def num_unwritten(self) -> int:
        """Requests that its engine is done with, but whose answers it has not written yet."""

    async def answer(self, row: int, line: BatchLine, hints: dict[str, Any] | None) -> Answer | Failure:
        """Run one request to its end; raises ReplicaLost."""

    async def lost(self) -> str:
        """Wait until it is lost; returns why, as a sentence without its full stop."""

    async def stop(self) -> None:
        """End it and give back what it holds."""


class Fleet:
    """Keeps a replica in each place. An async context manager; entering waits for the first one.

    Attributes:
        num_restarts: replicas started in place of lost ones.
    """

    def __init__(
        self,
        num_replicas: int,
        start: Callable[[int], Awaitable[Replica]],
        *,
        max_restarts: int,
        first_backoff_s: float = 1.0,
    ) -> None:
        """Make a fleet; nothing is started yet.

        Args:
            start: starts the replica of a place; raises EngineError, or ConfigError where no other try helps.
            max_restarts: of one place, between which not one request is answered there.
        """
        self.num_replicas = num_replicas
        self.num_restarts = 0
        self._start = start
        self._max_restarts, self._first_backoff_s = max_restarts, first_backoff_s
        self._replicas: list[Replica | None] = [None] * num_replicas
        self._failures: list[EngineError | None] = [None] * num_replicas  # of the last try
        self._is_given_up = [False] * num_replicas
        self._hopeless: Exception | None = None
        self._changed = asyncio.Event()
        self._keeping: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Fleet:
        self._keeping = [asyncio.create_task(self._keep(slot)) for slot in range(self.num_replicas)]
        try:
            while not any(self._replicas):
                if self._hopeless is not None:
                    raise self._hopeless
                failed = [failure for failure in self._failures if failure is not None]
                if len(failed) == self.num_replicas:
                    raise failed[0]
                await self._changed.wait()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for keeper in self._keeping:
            keeper.cancel()
        await asyncio.wait(self._keeping)
        await asyncio.gather(*(replica.stop() for replica in self.ready()))

    def ready(self) -> list[Replica]:
        """Those that can answer now."""
        return [replica for replica in self._replicas if replica is not None]

    def at(self, slot: int) -> Replica | None:
        """The replica of a place, if there is one now."""
        return self._replicas[slot]

    async def replica(self, slot: int) -> Replica | None:
        """Wait for the replica of a place; None when there will be none any more, though elsewhere.

        Raises:
            EngineError: there will be none in any place.
        """
        while (replica := self._replicas[slot]) is None:
            if self._hopeless is not None:
                raise self._hopeless
            if self._is_given_up[slot]:
                return None
            await self._changed.wait()
        return replica

    def _tell(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self, slot: int) -> None:
        """Start, wait for the loss, start again."""
        restarts = Restarts(self._max_restarts, self._first_backoff_s)
        wait_s: float | None = 0.0
        try:
            while wait_s is not None:
                await asyncio.sleep(wait_s)
                replica = await self._try(slot)
                if replica is not None:
                    await self._until_lost(slot, replica)
                    if replica.num_answers:
                        restarts.was_fruitful()
                wait_s = restarts.next_wait_s()
            self._give_up(slot)
        except ConfigError as e:
            self._hopeless = e
        except Exception as e:  # whatever it is, those who wait must hear of it
            logger.exception("Replica %d cannot be started.", slot)
            self._hopeless = EngineError(f"replica {slot} cannot be started: {type(e).__name__}: {e}")
        finally:
            self._tell()

    async def _until_lost(self, slot: int, replica: Replica) -> None:
        reason = await replica.lost()
        logger.warning("Replica %d is lost: %s. Starting another one.", slot, reason)
        self._failures[slot] = ReplicaLost(reason)
        self.num_restarts += 1
        self._replicas[slot] = None
        self._tell()
        await replica.stop()

    async def _try(self, slot: int) -> Replica | None:
        try:
            replica = await self._start(slot)
        except EngineError as e:
            logger.warning("Replica %d did not start: %s", slot, e)
            self._failures[slot] = e
            self._tell()
            return None
        logger.info("Replica %d is ready.", slot)
        self._replicas[slot], self._failures[slot] = replica, None
        self._tell()
        return replica

    def _give_up(self, slot: int) -> None:
        self._is_given_up[slot] = True
        failure = self._failures[slot]
        if all(self._is_given_up):
            self._hopeless = EngineError(
                f"all of {counted(self.num_replicas, 'replica')} died "
                f"{counted(self._max_restarts + 1, 'time')} and answered nothing in between; what had "
                f"finished before is in the output file. The last time: {failure}"
            )
        else:
            logger.error("Replica %d is given up, the others go on without it: %s", slot, failure)
