"""The driver's side of a replica: `fleet.Replica` on a Ray actor of `replica_worker.ReplicaWorker`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import re
from collections.abc import Callable
from typing import Any

from sglang_blend.cluster.fleet import ReplicaLost
from sglang_blend.cluster.part_writer import PartsTarget, discard_untold
from sglang_blend.cluster.replica_worker import Order, Report
from sglang_blend.cluster.window import ReplicaLoad
from sglang_blend.errors import EngineError, OutputError
from sglang_blend.request import Answer, BatchLine, EngineFacts, Failure

logger = logging.getLogger(__name__)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# How long a replica waits for an answer before it reports all the same.
_REPORT_S = 1.0
# What a healthy replica takes to answer a question about itself.
_QUESTION_S = 5.0


class RayReplica:
    """Collects requests into lots, hands answers to those who wait for them.

    Attributes:
        facts: see `fleet.Replica`.
        num_unwritten: answers that wait for their part, as it was last told.
        num_restarts, num_retries: of the engine inside it.
        num_sent_bytes, num_received_bytes: requests and answers, without the prompts' token ids.
    """

    def __init__(
        self,
        actor: Any,
        facts: EngineFacts,
        *,
        prompts: Callable[[], tuple[Any, ...]],
        parts: PartsTarget | None,
        on_steps: Callable[[bytes], None],
        release: Callable[[], None],
    ) -> None:
        """Serve a replica that has started; needs a running event loop.

        Args:
            actor: Ray's handle.
            prompts: references to the prompts of the job; asked before the first request is sent.
            parts: where it writes its answers; None where they come here.
            on_steps: takes what its schedulers did.
            release: gives back the actor and its resources; does not wait.
        """
        self.facts = facts
        self.load: ReplicaLoad | None = None
        self.num_unwritten = 0
        self.num_answers = self.num_restarts = self.num_retries = 0
        self.num_sent_bytes = self.num_received_bytes = 0
        self._actor, self._prompts = actor, prompts
        self._parts, self._told_parts = parts, set[int]()
        self._on_steps, self._release = on_steps, release
        self._waiting: dict[int, asyncio.Future[Answer | Failure]] = {}
        self._outbox: list[Order] = []
        self._has_mail = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks = [
            asyncio.create_task(self._guard(self._send())),
            asyncio.create_task(self._guard(self._hear())),
        ]

    async def answer(self, row: int, line: BatchLine, hints: dict[str, Any] | None) -> Answer | Failure:
        """See `fleet.Replica`."""
        if self._lost.done():
            raise ReplicaLost(self._lost.result())
        future: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        self._waiting[row] = future
        self._outbox.append(Order(row, line, hints))
        self._has_mail.set()
        try:
            return await future
        finally:
            self._waiting.pop(row, None)

    async def lost(self) -> str:
        """See `fleet.Replica`."""
        return await asyncio.shield(self._lost)

    async def server_info(self) -> list[dict[str, Any]]:
        """See `engine.protocol.Engine`; raises ReplicaLost."""
        states: list[dict[str, Any]] = await self._ask(self._actor.server_info.remote())
        return states

    async def flush_cache(self) -> bool:
        """See `engine.protocol.Engine`; raises ReplicaLost."""
        return bool(await self._ask(self._actor.flush_cache.remote()))

    async def fetch_steps(self) -> None:
        """What its schedulers did up to now."""
        self._take(await self._ask(self._actor.report.remote(0.0)))

    async def stop(self) -> None:
        """See `fleet.Replica`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        was_lost = self._lost.done()
        if not was_lost:
            self._lost.set_result("it was stopped")
            with contextlib.suppress(ReplicaLost, TimeoutError, EngineError, OutputError):
                async with asyncio.timeout(_QUESTION_S):
                    await self._ask(self._actor.stop.remote())
        self._release()
        if was_lost and self._parts is not None:  # what it wrote and could not tell runs elsewhere
            await asyncio.to_thread(discard_untold, self._parts, self._told_parts)

    async def _send(self) -> None:
        await self._has_mail.wait()
        await self._actor.take_prompts.remote(*self._prompts())
        while True:
            await self._has_mail.wait()
            self._has_mail.clear()
            lot, self._outbox = pickle.dumps(self._outbox), []
            self.num_sent_bytes += len(lot)
            await self._actor.submit.remote(lot)

    async def _hear(self) -> None:
        while True:
            self._take(await self._actor.report.remote(_REPORT_S))

    def _take(self, lot: bytes) -> None:
        report: Report = pickle.loads(lot)
        self.num_received_bytes += len(lot)
        self.load = report.load
        self.num_unwritten = report.num_unwritten
        self._told_parts.update(report.parts)
        self.num_restarts, self.num_retries = report.num_restarts, report.num_retries
        self.num_answers += len(report.done)
        if report.steps:
            self._on_steps(report.steps)
        for row, answer in report.done:
            future = self._waiting.get(row)
            if future is not None and not future.done():
                future.set_result(answer)
        if report.error is not None:
            raise report.error

    async def _guard(self, work: Any) -> None:
        """What ends one of the two loops is the end of the replica."""
        try:
            await work
        except OutputError as e:  # another replica would meet the same storage
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(OutputError(str(e)))
            self._lose(str(e).rstrip("."))
        except Exception as e:
            self._lose(reason_of(e))

    async def _ask(self, reference: Any) -> Any:
        try:
            return await reference
        except EngineError:
            raise
        except Exception as e:
            raise ReplicaLost(reason_of(e)) from e

    def _lose(self, reason: str) -> None:
        if self._lost.done():
            return
        self._lost.set_result(reason)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ReplicaLost(reason))


def reason_of(error: BaseException) -> str:
    """What an error of Ray says, in a line: of a traceback its last, of other words the first ones."""
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    if any(line.lstrip().startswith("File ") for line in lines):
        lines = lines[-1:]
    words = " ".join(" ".join(lines).split())
    return (words[:300] + " ..." if len(words) > 300 else words).rstrip(".") or type(error).__name__
