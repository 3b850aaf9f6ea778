"""An engine for tests of the job alone: splits prompts into words, answers with the last one.

It stands where `engine.protocol.Engine` does, so that the job's bookkeeping is tested in milliseconds; what
the real engine answers is tested in tests/srt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sglang_blend.core import RequestTable
from sglang_blend.engine.messages import Ask
from sglang_blend.errors import EngineError
from sglang_blend.plan.feed import WindowFeeder
from sglang_blend.request import (
    Answer,
    BatchLine,
    EngineFacts,
    Failure,
    Prepared,
    Rejection,
)


class EchoEngine:
    """Records what it was asked, in order; dies after `dies_after` answers, crashes at the word "crash".

    `on_answer` is called with the number of requests asked before each answer; "sleep" takes long.
    """

    num_restarts = 2
    num_retries = 3

    def __init__(
        self, *, dies_after: int | None = None, on_answer: Callable[[int], None] = lambda n: None
    ) -> None:
        self.asked: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._dies_after = dies_after
        self._on_answer = on_answer
        self._words: dict[str, int] = {}
        self.stopped = False

    def __enter__(self) -> EchoEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopped = True

    async def __aenter__(self) -> EchoEngine:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def facts(self) -> EngineFacts:
        return EngineFacts({}, "cpu", 1, 10_000, 1, 64, "dual-scan")

    def record(self) -> dict[str, Any]:
        return {}

    async def server_info(self) -> list[dict[str, Any]]:
        return [{}]

    async def flush_cache(self) -> bool:
        return True

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        for line in lines:
            yield line, self._prepare_one(line)

    def _prepare_one(self, line: BatchLine) -> Prepared | Rejection:
        prompt = line.body.get("prompt")
        if not isinstance(prompt, str):
            return Rejection(
                code="invalid_type",
                message="prompt must be a string.",
                line_number=line.line_number,
                custom_id=line.custom_id,
            )
        ids = [self._words.setdefault(word, len(self._words)) for word in prompt.split()]
        return Prepared(ids, 8, False, line.body.get("lora_path", ""))

    def feeder(self, table: RequestTable, window: int) -> WindowFeeder:
        return WindowFeeder(lambda row, line, hints: self.answer(Ask(line, table.prompt(row), hints)), window)

    async def answer(self, ask: Ask) -> Answer | Failure:
        line = ask.line
        self.asked.append(line.custom_id)
        if self._dies_after is not None and len(self.asked) > self._dies_after:
            raise EngineError("the engine died")
        self._on_answer(len(self.asked))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(60 if "sleep" in line.body["prompt"] else 0)
        self._at_once -= 1
        if "crash" in line.body["prompt"]:
            return Failure("engine_crash", "the engine died at this request")
        if "refuse" in line.body["prompt"]:
            return Answer(
                400, {"error": {"code": "invalid_value", "message": "refused by the engine"}}, 0, 0, 0
            )
        return Answer(200, {"echo": line.body["prompt"].split()[-1]}, len(ask.token_ids), 1, 1)
