"""Errors about a request body, in OpenAI's words.

SGLang checks bodies in three places - pydantic models, `_validate_request` of its serving classes and the
tokenizer manager - and speaks differently in each. Here all become a `Rejection` with OpenAI's codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson
from fastapi.responses import Response
from pydantic import ValidationError

from sglang_blend.request import Answer, BatchLine, Rejection, error_object

# pydantic's error types -> OpenAI's codes; the first pattern that matches counts.
_CODES = (
    (r"missing", "missing_required_parameter"),
    (r"(int|bool|string|float|list|dict|model)(_.*)?_(type|parsing|from_float)|is_instance", "invalid_type"),
    (r"greater_than", "integer_below_min_value"),
    (r"less_than", "integer_above_max_value"),
    (r"too_short", "empty_array"),
    (r"too_long", "array_above_max_length"),
    (r"extra_forbidden", "unknown_parameter"),
)

# Words of SGLang's messages -> the parameter at fault.
_PARAMS = (
    ("compile json grammar", "response_format"),
    ("compile regex grammar", "regex"),
    ("compile ebnf grammar", "ebnf"),
    ("LoRA adapter", "model"),
)

_TOKEN_ID_FIELDS = ("prompt", "input", "input_ids", "stop_token_ids")

# For a choice that ends with SGLang's `FINISH_ABORT`. Its OpenAI answers drop the reason; the log has it.
ABORTED = "SGLang aborted the request while it ran; its reason is in the engine's log."


def rejection_from_validation(line: BatchLine, error: ValidationError) -> Rejection:
    """The error of the shortest path: with a union, pydantic lists one for each member it tried."""
    first = min(error.errors(include_url=False, include_context=False), key=lambda e: len(e["loc"]))
    param = ".".join(str(part) for part in first["loc"]) or None
    code = next((code for pattern, code in _CODES if re.match(pattern, first["type"])), "invalid_value")
    where = f"{param}: " if param else ""
    message = f"{where}{first['msg']}."
    if code != "missing_required_parameter":
        message += f" Given was {_short(first['input'])}."
    return rejection(line, code, message, param=param)


def rejection_from_message(line: BatchLine, message: str) -> Rejection:
    """From a sentence of SGLang's own validation."""
    return rejection(line, _code_of(message), message)


def rejection(line: BatchLine, code: str, message: str, *, param: str | None = None) -> Rejection:
    """A refusal of this line's body."""
    return Rejection(
        code=code, message=message, param=param, line_number=line.line_number, custom_id=line.custom_id
    )


def refused_token_id(line: BatchLine, vocab_size: int) -> Rejection | None:
    """A refusal where the body itself names a token id that the model does not have.

    SGLang 0.5.17 checks them nowhere: an id beyond the embedding table is an IndexError in the scheduler (an
    illegal memory access on a GPU), which ends the engine and every request in it.
    """
    for name in _TOKEN_ID_FIELDS:
        for token_id in _ids(line.body.get(name)):
            if not 0 <= token_id < vocab_size:
                return rejection(
                    line,
                    "invalid_value",
                    f"{name} has the token id {token_id}; the model has 0 to {vocab_size - 1}.",
                    param=name,
                )
    return None


def error_answer(status_code: int, message: str, *, param: str | None = None) -> Answer:
    """The answer to a request that has none."""
    return Answer(status_code, {"error": error_from_message(status_code, message, param=param)}, 0, 0, 0)


def error_from_response(response: Response) -> Answer:
    """SGLang's flat error object as OpenAI's `{"error": {...}}`."""
    flat = orjson.loads(response.body)
    flat = flat.get("error", flat)
    message = flat.get("message") or "no reason given"
    return error_answer(response.status_code, message, param=flat.get("param"))


def error_from_message(status_code: int, message: str, *, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object from a sentence of SGLang's."""
    code = _code_of(message) if status_code < 500 else "server_error"
    param = param or next((name for words, name in _PARAMS if words in message), None)
    return error_object(code, message, param=param, status_code=status_code)


def _code_of(message: str) -> str:
    return "context_length_exceeded" if "context length" in message else "invalid_value"


def _ids(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, int):
                yield item
            else:
                yield from _ids(item)


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
