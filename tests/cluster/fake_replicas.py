"""Replicas without Ray and without an engine, for tests of what stands around them."""

from __future__ import annotations

import asyncio
from typing import Any

from sglang_blend.cluster.fleet import ReplicaLost
from sglang_blend.cluster.window import ReplicaLoad
from sglang_blend.request import Answer, BatchLine, EngineFacts

FACTS = EngineFacts({}, "cpu", 1, 10_000, 1, 64, "dual-scan")


class FakeReplica:
    """Answers each request after `answer_s`, at most `most_at_once` at a time; `lose` is its death."""

    def __init__(
        self, slot: int, log: list[tuple[int, int]], *, answer_s: float = 0.0, most_at_once: int = 4
    ) -> None:
        """Args: log: gets (slot, row) of every answer."""
        self.slot, self.facts = slot, FACTS
        self.num_answers = self.num_unwritten = 0
        self.is_stopped = False
        self.held: set[int] = set()
        self.most_held = 0
        self._log, self._answer_s = log, answer_s
        self._free = asyncio.Semaphore(most_at_once)
        self._most_at_once = most_at_once
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def load(self) -> ReplicaLoad:
        running = min(len(self.held), self._most_at_once)
        return ReplicaLoad(running, len(self.held) - running)

    async def answer(self, row: int, line: BatchLine, hints: dict[str, Any] | None) -> Answer:
        self.held.add(row)
        self.most_held = max(self.most_held, len(self.held))
        work: asyncio.Future[Any] = asyncio.create_task(self._work(row))
        try:
            await asyncio.wait([work, self._lost], return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                raise ReplicaLost(self._lost.result())
            self.num_answers += 1
            self._log.append((self.slot, row))
            return Answer(200, {}, 1, 0, 1)
        finally:
            self.held.discard(row)
            work.cancel()

    async def _work(self, row: int) -> None:
        async with self._free:
            await asyncio.sleep(self._answer_s)

    def lose(self, reason: str = "its machine is gone") -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    async def lost(self) -> str:
        return await asyncio.shield(self._lost)

    async def stop(self) -> None:
        self.is_stopped = True
        self.lose("it was stopped")
