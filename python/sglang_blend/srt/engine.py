"""The real engine behind a job: SGLang's processes, driven through SGLang's own OpenAI serving classes.

    with OfflineEngine(server_args) as engine:
        prepared = engine.prepare(line)                       # chat template, tokens, validation
        engine.run(job_coroutine)                             # calls `await engine.answer(line, token_ids)`

No HTTP: `OpenAIServingChat` and its siblings are called in process, so chat templates, tools,
response_format, logprobs, n, stop and the reasoning and tool parsers are SGLang's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import sglang as sgl
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from sglang.srt.entrypoints.openai.serving_base import OpenAIServingBase
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.entrypoints.openai.serving_completions import OpenAIServingCompletion
from sglang.srt.entrypoints.openai.serving_embedding import OpenAIServingEmbedding
from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils import kill_process_tree

from sglang_blend import fork
from sglang_blend.errors import EngineError
from sglang_blend.job.engine import Answer, Prepared
from sglang_blend.job.input import BatchLine
from sglang_blend.job.records import Rejection
from sglang_blend.srt.bodies import error_body, rejection, rejection_from_message, rejection_from_validation

T = TypeVar("T")


class _Endpoint(NamedTuple):
    request_class: type[BaseModel]
    serving: OpenAIServingBase


class OfflineEngine:
    """Starts SGLang; `job.engine.Engine`. A context manager: no process is left behind."""

    def __init__(self, server_args: ServerArgs) -> None:
        """Start the processes and load the model; takes from half a minute up.

        Raises:
            ForkError: the installed sglang is not the fork.
            EngineError: a process died on the way; its own words are on stderr.
        """
        fork.require()
        self._dead: str | None = None
        self._answering: set[asyncio.Task[Any]] = set()
        self._engine = _start(server_args)
        manager, templates = self._engine.tokenizer_manager, self._engine.template_manager
        self._endpoints = {
            "/v1/chat/completions": _Endpoint(ChatCompletionRequest, OpenAIServingChat(manager, templates)),
            "/v1/completions": _Endpoint(CompletionRequest, OpenAIServingCompletion(manager, templates)),
            "/v1/embeddings": _Endpoint(EmbeddingRequest, OpenAIServingEmbedding(manager, templates)),
        }
        self._manager = manager
        self._served_model = manager.served_model_name
        # A conversation template brings stop strings with the rendered text, so it must be rendered again.
        self._can_send_chat_ids = (
            templates.chat_template_name is None and not manager.model_config.is_multimodal
        )

    def __enter__(self) -> OfflineEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Stop all processes."""
        if self._dead:
            kill_process_tree(os.getpid(), include_parent=False)
        else:
            self._engine.shutdown()

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that awaits `answer` in the engine's event loop.

        Raises:
            EngineError: the engine died meanwhile.
        """
        return self._engine.loop.run_until_complete(self._hosted(job))

    async def _hosted(self, job: Coroutine[Any, Any, T]) -> T:
        loop = asyncio.get_running_loop()
        self._manager.auto_create_handle_loop()
        task = loop.create_task(job)
        # In place of SGLang's own handlers, which would kill this process and lose what is not yet written.
        loop.add_signal_handler(
            signal.SIGQUIT,
            self._on_death,
            "a process of the engine died; what had finished is in the output file.",
        )
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    def prepare(self, line: BatchLine) -> Prepared | Rejection:
        """Validate the body as SGLang would and tokenize it; nothing is sent to the scheduler."""
        endpoint = self._endpoints[line.url]
        try:
            request = endpoint.request_class.model_validate(line.body)
            if getattr(request, "stream", False):
                return rejection(
                    line,
                    "unsupported_value",
                    "stream: true has no meaning in a batch; leave it out.",
                    param="stream",
                )
            reason = endpoint.serving._validate_request(request)
            if reason:
                return rejection_from_message(line, reason)
            adapted, _ = endpoint.serving._convert_to_internal_request(request)
            token_ids = self._first_prompt_ids(adapted)
            self._manager._validate_one_request(adapted, list(token_ids))
        except ValidationError as e:
            return rejection_from_validation(line, e)
        except (ValueError, TypeError) as e:
            return rejection_from_message(line, str(e))
        except Exception as e:
            # Chat templates are programs of the model's authors: they raise what they like.
            logging.getLogger(__name__).debug("line %d refused", line.line_number, exc_info=True)
            return rejection_from_message(line, f"{type(e).__name__}: {e}")
        return self._prepared(adapted, token_ids)

    async def answer(self, line: BatchLine, token_ids: Sequence[int]) -> Answer:
        """Run one request through SGLang's serving class; see `job.engine.Engine`."""
        if self._dead:
            raise EngineError(self._dead)
        endpoint = self._endpoints[line.url]
        request = self._with_token_ids(endpoint.request_class.model_validate(line.body), token_ids)
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            result = await endpoint.serving.handle_request(request, None)
        except asyncio.CancelledError:
            if self._dead:
                raise EngineError(self._dead) from None
            raise
        finally:
            self._answering.discard(task)
        if isinstance(result, Response):
            return Answer(result.status_code, error_body(result), 0, 0, 0)
        return self._answer_200(request, result.model_dump(mode="json"))

    def _on_death(self, reason: str) -> None:
        self._dead = reason
        for task in self._answering:
            task.cancel()

    def _first_prompt_ids(self, adapted: GenerateReqInput | EmbeddingReqInput) -> list[int]:
        """Token ids of a request; of the first prompt where it carries several."""
        ids, text = adapted.input_ids, adapted.text
        if ids is not None:
            return ids[0] if ids and isinstance(ids[0], list) else ids
        first = text[0] if isinstance(text, list) else text
        return self._manager.tokenizer.encode(first)

    def _prepared(self, adapted: GenerateReqInput | EmbeddingReqInput, token_ids: list[int]) -> Prepared:
        room = self._manager.context_len - len(token_ids)
        if isinstance(adapted, EmbeddingReqInput):
            return Prepared(token_ids, 0, True, "embedding")
        params = adapted.sampling_params
        wanted = params.get("max_new_tokens")
        namespace = f"{adapted.lora_path or ''}\0{adapted.extra_key or ''}"
        return Prepared(
            token_ids,
            room if wanted is None else min(wanted, room),
            bool(params.get("ignore_eos")),
            namespace,
        )

    def _with_token_ids(self, request: Any, token_ids: Sequence[int]) -> Any:
        """Put the known token ids in place of the prompt, where SGLang then answers the same."""
        if isinstance(request, ChatCompletionRequest):
            if self._can_send_chat_ids and request.input_ids is None:
                request.input_ids = list(token_ids)
        elif isinstance(request, CompletionRequest) and isinstance(request.prompt, str) and not request.echo:
            request.prompt = list(token_ids)
        return request

    def _answer_200(self, request: Any, body: dict[str, Any]) -> Answer:
        if ":" not in request.model:  # "base:adapter" names a LoRA adapter
            body["model"] = self._served_model
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return Answer(
            200, body, usage.get("prompt_tokens", 0), cached or 0, usage.get("completion_tokens") or 0
        )


def _raise_start_failed(signum: int, frame: object) -> None:
    """SIGQUIT while starting: a child failed. A module-level function, as it is pickled to the children."""
    raise EngineError("the engine failed to start; its own words are above.")


def _start(server_args: ServerArgs) -> sgl.Engine:
    """Start SGLang's engine; a child that dies on the way raises here instead of killing this process."""
    server_args.override("sglang_blend", custom_sigquit_handler=_raise_start_failed)
    # SGLang announces a custom handler as an error; it is none.
    log = logging.getLogger("sglang.srt.entrypoints.engine")
    log.addFilter(_is_not_about_sigquit)
    try:
        return sgl.Engine(server_args=server_args)
    except BaseException:
        kill_process_tree(os.getpid(), include_parent=False)
        raise
    finally:
        log.removeFilter(_is_not_about_sigquit)


def _is_not_about_sigquit(record: logging.LogRecord) -> bool:
    return "custom SIGQUIT handler" not in str(record.msg)
