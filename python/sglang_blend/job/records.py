"""Output and error lines in OpenAI's batch schema, and the reasons a line can be refused for.

A line of either file is
`{"id", "custom_id", "response": {"status_code", "request_id", "body"} | null, "error": {...} | null}`.
A refused request is a 4xx `response` whose body carries the error object; `error` is for failures that have
no HTTP answer (the engine died). Source: OpenAI's batch API; the line objects of openai-openapi, 2024-10.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why one line is refused: an OpenAI error object, and what is known of the line.

    `custom_id` is None when it could not be read; the message then names the line.
    """

    code: str
    message: str
    param: str | None = None
    status_code: int = 400
    line_number: int | None = None
    custom_id: str | None = None

    @property
    def error_type(self) -> str:
        return "invalid_request_error" if self.status_code < 500 else "server_error"


def response_record(custom_id: str | None, status_code: int, body: Any) -> Record:
    """A line for a request that got an HTTP answer, good or bad."""
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": {"status_code": status_code, "request_id": f"req_{uuid.uuid4().hex}", "body": body},
        "error": None,
    }


def rejection_record(rejection: Rejection) -> Record:
    """An error line for a refused request; the message starts with its line number where that is known."""
    line = rejection.line_number
    message = rejection.message if line is None else f"Line {line}: {rejection.message}"
    error = {
        "message": message,
        "type": rejection.error_type,
        "param": rejection.param,
        "code": rejection.code,
    }
    return response_record(rejection.custom_id, rejection.status_code, {"error": error})


def failure_record(custom_id: str | None, code: str, message: str) -> Record:
    """An error line for a request that got no answer at all."""
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
