"""SGLang's OpenAI serving classes, called in process: bodies in, token ids or answers out.

    serving = Serving(tokenizer_manager, template_manager)
    prepared = serving.prepare(line)                       # chat template, tokens, validation
    answer = await serving.answer(Ask(line, token_ids))    # needs a running scheduler

Chat templates, tools, response_format, logprobs, stop and the reasoning and tool parsers are SGLang's.
The prepare workers use `prepare` with a tokenizer manager that has no scheduler (`tokenizer_manager_alone`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, NamedTuple

from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from sglang.srt.entrypoints.engine import init_tokenizer_manager
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from sglang.srt.entrypoints.openai.serving_base import OpenAIServingBase
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.entrypoints.openai.serving_completions import OpenAIServingCompletion
from sglang.srt.entrypoints.openai.serving_embedding import OpenAIServingEmbedding
from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.parser.template_detection import resolve_auto_parsers
from sglang.srt.parser.template_manager import TemplateManager
from sglang.srt.server_args import ServerArgs

from sglang_blend.engine.messages import Ask
from sglang_blend.errors import ConfigError
from sglang_blend.request import Answer, BatchLine, Prepared, Rejection, TokenIds, namespace
from sglang_blend.scheduling.hints import with_hints
from sglang_blend.srt.bodies import (
    ABORTED,
    error_answer,
    error_from_response,
    refused_token_id,
    rejection,
    rejection_from_message,
    rejection_from_validation,
)
from sglang_blend.srt.choices import merge_choices, request_rid
from sglang_blend.srt.media_ids import with_media_ids

logger = logging.getLogger(__name__)


class _Endpoint(NamedTuple):
    request_class: type[BaseModel]
    serving: OpenAIServingBase


class _TokenizerManagerAlone(TokenizerManager):
    """SGLang's tokenizer manager without its sockets: it validates and tokenizes, and sends nothing."""

    def init_ipc_channels(self, port_args: object) -> None:
        self.send_to_scheduler = self.tokenizer_ipc_name = None

    def init_disaggregation(self, **kwargs: object) -> None:
        super().init_disaggregation(start_pd_bootstrap_service=False)


def tokenizer_manager_alone(server_args: ServerArgs) -> tuple[TokenizerManager, TemplateManager]:
    """The managers as the engine makes them (`Engine._launch_subprocesses`, 0.5.17), without the engine.

    Args:
        server_args: changed, and fresh: SGLang's check makes `LoRARef`s of the adapters, and takes none.

    Raises:
        ConfigError: SGLang refuses its flags for LoRA.
    """
    try:
        server_args.check_lora_server_args()  # the part of `check_server_args` that asks for no device
    except (ValueError, AssertionError) as e:
        raise ConfigError(f"SGLang refuses these flags: {e}") from e
    if "auto" in (server_args.reasoning_parser, server_args.tool_call_parser):
        resolve_auto_parsers(server_args)
    return init_tokenizer_manager(server_args, None, _TokenizerManagerAlone)


class Serving:
    """The serving classes of the urls that a batch may name."""

    def __init__(self, manager: TokenizerManager, templates: TemplateManager) -> None:
        self._manager = manager
        self._endpoints = {
            "/v1/chat/completions": _Endpoint(ChatCompletionRequest, OpenAIServingChat(manager, templates)),
            "/v1/completions": _Endpoint(CompletionRequest, OpenAIServingCompletion(manager, templates)),
            "/v1/embeddings": _Endpoint(EmbeddingRequest, OpenAIServingEmbedding(manager, templates)),
        }
        self._served_model = manager.served_model_name
        self._run = secrets.token_hex(4)
        # A conversation template brings stop strings with the rendered text, so it must be rendered again.
        self._can_send_chat_ids = (
            templates.chat_template_name is None and not manager.model_config.is_multimodal
        )
        self._can_send_completion_ids = templates.completion_template_name is None

    def prepare(self, line: BatchLine) -> Prepared | Rejection:
        """Validate the body as SGLang would and tokenize it; nothing is sent to the scheduler."""
        endpoint = self._endpoints[line.url]
        if (line.url == "/v1/embeddings") == self._manager.is_generation:
            kind = "generates text; --is-embedding starts it for embeddings"
            if not self._manager.is_generation:
                kind = "was started for embeddings and generates no text"
            return rejection(line, "url_mismatch", f"url is {line.url}, but the model {kind}.", param="url")
        try:
            request = endpoint.request_class.model_validate(line.body)
            unknown = refused_token_id(line, self._manager.model_config.vocab_size)
            if unknown:
                return unknown
            reason = endpoint.serving._validate_request(request)
            if reason:
                return rejection_from_message(line, reason)
            adapted, _ = endpoint.serving._convert_to_internal_request(request)
            token_ids = self._first_prompt_ids(adapted)
            adapted.sampling_params = adapted.sampling_params or {}  # an embedding has none yet
            self._manager._validate_one_request(adapted, list(token_ids))
        except ValidationError as e:
            return rejection_from_validation(line, e)
        except (ValueError, TypeError) as e:
            return rejection_from_message(line, str(e))
        except Exception as e:
            # Chat templates are programs of the model's authors: they raise what they like.
            logger.debug("line %d refused", line.line_number, exc_info=True)
            return rejection_from_message(line, f"{type(e).__name__}: {e}")
        special_tokens = getattr(self._manager.mm_processor, "mm_tokens", None)
        return self._prepared(adapted, with_media_ids(token_ids, adapted, special_tokens))

    async def answer(self, ask: Ask) -> Answer:
        """Run one request to its end; with n > 1 as n requests at once, merged.

        Args:
            ask: of a line that `prepare` accepted, with the token ids that it returned. Its number makes the
                rid; all rids are equally long, because SGLang aborts every request whose rid starts with the
                given one. The scheduler finds its hints in `custom_params`.
        """
        try:
            return await self._answer(ask)
        except Exception as e:
            # What SGLang's own error handling does not cover costs this request and no other.
            logger.exception("request %s failed", ask.line.custom_id)
            return error_answer(500, f"{type(e).__name__}: {e}")

    async def _answer(self, ask: Ask) -> Answer:
        endpoint = self._endpoints[ask.line.url]
        request = self._with_token_ids(endpoint.request_class.model_validate(ask.line.body), ask.token_ids)
        if not isinstance(request, EmbeddingRequest):
            request.custom_params = with_hints(request.custom_params, ask.hints)
        copies = self._one_choice_each(request, ask.number)
        results = await asyncio.gather(*(endpoint.serving.handle_request(copy, None) for copy in copies))
        for result in results:
            if isinstance(result, Response):
                return error_from_response(result)
        bodies = [r.model_dump(mode="json") for r in results]
        if any(choice["finish_reason"] == "abort" for body in bodies for choice in body.get("choices", ())):
            return error_answer(500, ABORTED)
        return self._answer_200(request, merge_choices(bodies))

    def _one_choice_each(self, request: Any, number: int) -> list[Any]:
        """The request n times with n = 1, each with a rid for each of its prompts; changes the request."""
        if isinstance(request, EmbeddingRequest):
            request.rid = None  # SGLang's own: a uuid for each input, just as long
            return [request]
        prompts: Any = getattr(request, "prompt", None)
        is_list = isinstance(prompts, list) and not isinstance(prompts[0], int)
        copies = [request] if request.n == 1 else [request.model_copy(deep=True) for _ in range(request.n)]
        for choice, copy in enumerate(copies):
            copy.n = 1
            rids = [request_rid(self._run, number, choice, i) for i in range(len(prompts) if is_list else 1)]
            copy.rid = rids if is_list else rids[0]
        return copies

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
        return Prepared(
            token_ids,
            room if wanted is None else min(wanted, room),
            bool(params.get("ignore_eos")),
            namespace(adapted.lora_path, adapted.extra_key),
        )

    def _with_token_ids(self, request: Any, token_ids: TokenIds) -> Any:
        """Put the known token ids in place of the prompt, where SGLang then answers the same."""
        if isinstance(request, EmbeddingRequest):
            pass
        elif isinstance(request, ChatCompletionRequest):
            if self._can_send_chat_ids and request.input_ids is None:
                request.input_ids = list(token_ids)
        elif self._can_send_completion_ids and isinstance(request.prompt, str) and not request.echo:
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
