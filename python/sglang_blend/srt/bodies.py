"""Errors about a request body, in OpenAI's words.

SGLang checks bodies in three places - pydantic models, `_validate_request` of its serving classes and the
tokenizer manager - and speaks differently in each. Here all become a `Rejection` with OpenAI's codes.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from fastapi.responses import Response
from pydantic import ValidationError

from sglang_blend.request import BatchLine, Rejection

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

# For a choice that ends with SGLang's `FINISH_ABORT`. Its OpenAI answers drop the reason; the log has it.
ABORTED = {
    "error": {
        "message": "SGLang aborted the request while it ran; its reason is in the engine's log.",
        "type": "server_error",
        "param": None,
        "code": "server_error",
    }
}


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
    too_long = "context length" in message
    return rejection(line, "context_length_exceeded" if too_long else "invalid_value", message)


def rejection(line: BatchLine, code: str, message: str, *, param: str | None = None) -> Rejection:
    """A refusal of this line's body."""
    return Rejection(
        code=code, message=message, param=param, line_number=line.line_number, custom_id=line.custom_id
    )


def error_body(response: Response) -> dict[str, Any]:
    """SGLang's flat error object as OpenAI's `{"error": {...}}`."""
    flat = orjson.loads(response.body)
    flat = flat.get("error", flat)
    message = flat.get("message") or "no reason given"
    bad_request = response.status_code < 500
    param = next((param for words, param in _PARAMS if words in message), None)
    code = "server_error"
    if bad_request:
        code = "context_length_exceeded" if "context length" in message else "invalid_value"
    return {
        "error": {
            "message": message,
            "type": "invalid_request_error" if bad_request else "server_error",
            "param": flat.get("param") or param,
            "code": code,
        }
    }


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
