"""An engine for tests of the job alone: splits prompts into words, answers with the last one.

It stands where `job.engine.Engine` does, so that the job's bookkeeping is tested in milliseconds; what
the real engine answers is tested in tests/srt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from sglang_blend.errors import EngineError
from sglang_blend.job.engine import Answer, Prepared
from sglang_blend.job.input import BatchLine
from sglang_blend.job.records import Rejection


class EchoEngine:
    """Records what it was asked, in order; dies after `dies_after` answers, hangs when told to."""

    def __init__(self, *, dies_after: int | None = None, interrupts_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._dies_after = dies_after
        self._interrupts_after = interrupts_after
        self._words: dict[str, int] = {}
        self.stopped = False
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> EchoEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopped = True

    def run(self, job: Coroutine[Any, Any, Any]) -> Any:
        async def hosted() -> Any:
            self._task = asyncio.create_task(job)
            return await self._task

        return asyncio.run(hosted())

    def prepare(self, line: BatchLine) -> Prepared | Rejection:
        prompt = line.body.get("prompt")
        if not isinstance(prompt, str):
            return Rejection(
                code="invalid_type",
                message="prompt must be a string.",
                line_number=line.line_number,
                custom_id=line.custom_id,
            )
        ids = [self._words.setdefault(word, len(self._words)) for word in prompt.split()]
        return Prepared(ids, 8, False, line.body.get("lora", ""))

    async def answer(self, line: BatchLine, token_ids: Sequence[int]) -> Answer:
        self.asked.append(line.custom_id)
        if self._dies_after is not None and len(self.asked) > self._dies_after:
            raise EngineError("the engine died")
        if self._interrupts_after is not None and len(self.asked) > self._interrupts_after:
            assert self._task is not None
            self._task.cancel()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        if "refuse" in line.body["prompt"]:
            return Answer(
                400, {"error": {"code": "invalid_value", "message": "refused by the engine"}}, 0, 0, 0
            )
        return Answer(200, {"echo": line.body["prompt"].split()[-1]}, len(token_ids), 1, 1)
