"""What a job needs of an engine. `sglang_blend.srt.engine` is the real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from sglang_blend.job.input import BatchLine
from sglang_blend.job.records import Rejection


class Prepared(NamedTuple):
    """What the planner needs of one request.

    `max_new_tokens` caps the output; `fixed_output` says it is exactly that long. Requests of different
    `namespace` (LoRA adapter, extra key) never share a prefix.
    """

    token_ids: Sequence[int]
    max_new_tokens: int
    fixed_output: bool
    namespace: str


class Answer(NamedTuple):
    """The HTTP answer to one request. Token counts are 0 for a refused one."""

    status_code: int
    body: dict[str, Any]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Engine(Protocol):
    """Prepares and answers requests; many `answer` calls run at once in one event loop."""

    def prepare(self, line: BatchLine) -> Prepared | Rejection:
        """Check the body and tokenize it, without running it."""

    async def answer(self, line: BatchLine, token_ids: Sequence[int]) -> Answer:
        """Run one request to its end. `token_ids` are those that `prepare` returned.

        Raises:
            EngineError: the engine died; no request can be answered any more.
        """
