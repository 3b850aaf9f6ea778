"""What stands for tokenizer and engine where Ray is tested: words."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from job.echo_engine import EchoEngine
from sglang_blend.engine.messages import Ask
from sglang_blend.request import Answer, BatchLine, Failure, Prepared, Rejection

# Names a file: no answer is given while it exists.
HELD_BY = "SGLANG_BLEND_TEST_ANSWERS_HELD_BY"


class SlowWords(EchoEngine):
    """Takes a while, so that a kill meets it at work; answers with the number of words it was given."""

    num_restarts = num_retries = 0

    async def server_info(self) -> list[dict[str, Any]]:
        return [{"blend": {"num_running": self._at_once, "num_waiting": 0}}]

    async def answer(self, ask: Ask) -> Answer | Failure:
        await asyncio.sleep(0.02)
        while HELD_BY in os.environ and Path(os.environ[HELD_BY]).exists():
            await asyncio.sleep(0.02)
        return await super().answer(ask)


class WordPreparer:
    """Prepares as the engine above does."""

    def __init__(self) -> None:
        self._engine = EchoEngine()

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        return self._engine.prepare(lines)

    def close(self) -> None:
        pass
