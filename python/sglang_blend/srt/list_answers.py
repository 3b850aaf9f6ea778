"""Answers a list of prompts in planned order: what `sglang_blend.Engine` does where SGLang's would hand the
whole list to the scheduler.

    async for answer in answer_list(manager, request, facts, options): ...

yields what SGLang's `TokenizerManager.generate_request` yields: one list, or, streaming, the chunks of all
rows with their `index`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from tqdm import tqdm

from sglang_blend.config import default_window
from sglang_blend.plan.feed import run_plan, run_rows
from sglang_blend.plan.job_plan import JobPlan
from sglang_blend.request import REFUSED, EngineFacts
from sglang_blend.scheduling.hints import with_hints
from sglang_blend.srt.bodies import error_from_message
from sglang_blend.srt.request_list import RequestList, can_plan, read_list

# The scheduler orders fewer prompts by itself as well as a plan would.
LEAST_TO_PLAN = 16
Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How a list is run.

    Attributes:
        order: of the plan, a name of `core.order_names()` or "auto".
        window: requests with the engine at a time; None takes twice what it runs at once.
        return_errors: a prompt that fails has its error in its place, instead of ending the list.
        progress: draw a bar on stderr.
    """

    order: str = "auto"
    window: int | None = None
    return_errors: bool = False
    progress: bool = False


def is_worth_planning(request: GenerateReqInput, facts: EngineFacts) -> bool:
    """Whether the list can have an order, the scheduler executes one, and it is long enough."""
    prompts = request.text if request.text is not None else request.input_ids
    return facts.takes_hints and can_plan(request) and _length(prompts, request) >= LEAST_TO_PLAN


def _length(prompts: Any, request: GenerateReqInput) -> int:
    """Rows of the answer, before SGLang has normalized the request."""
    params = request.sampling_params
    first = params[0] if isinstance(params, list) and params else params
    copies = (first or {}).get("n", 1)
    one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return copies if one else copies * len(prompts)


async def answer_list(
    manager: TokenizerManager, request: GenerateReqInput, facts: EngineFacts, options: ListOptions
) -> AsyncGenerator[Any, None]:
    """Yield the answers; closing the generator aborts what is running.

    Raises:
        Exception: of the first prompt that fails, unless errors are returned. What can be known of it before
            anything runs is known then: sizes, parameters, token ids.
    """
    planned = is_worth_planning(request, facts)
    requests = await read_list(manager, request)
    if requests.failed and not options.return_errors:
        raise next(iter(requests.failed.values()))
    with tqdm(
        total=len(requests.singles), desc="generate", unit="req", disable=not options.progress
    ) as progress:
        run = _ListRun(manager, requests, options, facts, progress)
        if request.stream:
            async with aclosing(_stream(run, planned)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        answers: list[Answer] = [{}] * len(requests.singles)
        await run.run(planned, answers.__setitem__)
        yield answers


async def _stream(run: _ListRun, planned: bool) -> AsyncGenerator[Answer, None]:
    chunks: asyncio.Queue[Answer | None] = asyncio.Queue()

    def put(row: int, chunk: Answer) -> None:
        chunk["index"] = row
        chunks.put_nowait(chunk)

    running = asyncio.create_task(run.run(planned, put))
    running.add_done_callback(lambda _: chunks.put_nowait(None))
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class _ListRun:
    """Feeds the rows of one list."""

    def __init__(
        self,
        manager: TokenizerManager,
        requests: RequestList,
        options: ListOptions,
        facts: EngineFacts,
        progress: tqdm[Any],
    ) -> None:
        self._manager, self._requests, self._facts = manager, requests, facts
        self._options, self._progress = options, progress

    async def run(self, planned: bool, on_answer: Callable[[int, Answer], None]) -> None:
        """Answer every row; `on_answer` gets the row and its answer, or its chunks."""
        for row, error in self._requests.failed.items():
            on_answer(row, self._error(row, error))
            self._progress.update()
        rows = self._requests.sound
        free = asyncio.Semaphore(self._options.window or default_window(self._facts.max_running_requests))
        if not planned or not rows:
            await run_rows(rows, lambda row: self._run_one(row, on_answer), free)
            return
        table = self._requests.table(rows, self._manager.context_len)
        plan = await asyncio.to_thread(JobPlan, table, self._facts, order=self._options.order)

        async def run_planned(number: int) -> None:
            self._give_hints(rows[number], plan.hints(number))
            answer = await self._run_one(rows[number], on_answer)
            if "error" not in answer:
                plan.observe(number, answer["meta_info"]["completion_tokens"])

        await run_plan(plan, run_planned, free)

    def _give_hints(self, row: int, hints: dict[str, Any] | None) -> None:
        if hints is not None:
            params = self._requests.singles[row].sampling_params
            params["custom_params"] = with_hints(params.get("custom_params"), hints)

    async def _run_one(self, row: int, on_answer: Callable[[int, Answer], None]) -> Answer:
        """Run a row to its end; returns the last that was said about it."""
        answer: Answer = {}
        try:
            async for answer in self._manager.generate_request(self._requests.singles[row], None):
                on_answer(row, answer)
        except Exception as e:
            if not self._options.return_errors:
                raise
            answer = self._error(row, e)
            on_answer(row, answer)
        self._progress.update()
        return answer

    def _error(self, row: int, error: Exception) -> Answer:
        return error_answer(self._requests.singles[row].rid, error)


def error_answer(rid: str | None, error: Exception) -> Answer:
    """What stands in the place of an answer: OpenAI's error object, and no text."""
    message = str(error.detail) if isinstance(error, HTTPException) else str(error) or type(error).__name__
    status_code = REFUSED if isinstance(error, ValueError | TypeError) else 500
    return {"error": error_from_message(status_code, message), "meta_info": {"id": rid}}
