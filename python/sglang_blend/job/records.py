"""Output and error lines in OpenAI's batch schema.

A line of either file is
`{"id", "custom_id", "response": {"status_code", "request_id", "body"} | null, "error": {...} | null}`.
A refused request is a 4xx `response` whose body carries the error object; `error` is for failures that have
no HTTP answer (the engine died). Source: OpenAI's batch API; the line objects of openai-openapi, 2024-10.
Added to the error object is `line`, as in the `errors` of OpenAI's batch object: the line's number in the
input. It names the lines whose custom_id cannot be read or is another line's, also for the next run.
"""

from __future__ import annotations

import uuid
from typing import Any

from sglang_blend.request import REFUSED, Rejection

Record = dict[str, Any]


def response_record(custom_id: str | None, status_code: int, body: Any) -> Record:
    """A line for a request that got an HTTP answer, good or bad."""
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": {"status_code": status_code, "request_id": f"req_{uuid.uuid4().hex}", "body": body},
        "error": None,
    }


def rejection_record(rejection: Rejection) -> Record:
    """An error line for a refused request; its message starts with the line number."""
    number = rejection.line_number
    error = rejection.error | {"message": f"Line {number}: {rejection.message}", "line": number}
    return response_record(rejection.custom_id, rejection.status_code, {"error": error})


def refused_record(custom_id: str, line_number: int, status_code: int, body: Any) -> Record:
    """An error line for a request that the engine answered with an error object."""
    return response_record(custom_id, status_code, {"error": {**body["error"], "line": line_number}})


def failure_record(custom_id: str | None, code: str, message: str, line_number: int) -> Record:
    """An error line for a request that got no answer at all."""
    return {
        "id": f"batch_req_{uuid.uuid4().hex}",
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message, "line": line_number},
    }


def error_of(record: Record) -> dict[str, Any]:
    """The error object of an error line, of either kind; empty where there is none."""
    response = record.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    error = body.get("error") if isinstance(body, dict) else record.get("error")
    return error if isinstance(error, dict) else {}


def is_refusal(record: Record) -> bool:
    """Whether an error line says that the request itself was at fault."""
    response = record.get("response")
    return isinstance(response, dict) and response.get("status_code") == REFUSED
