"""Output and error lines in OpenAI's batch schema, and the reasons a line can be refused for.

A line of either file is
`{"id", "custom_id", "response": {"status_code", "request_id", "body"} | null, "error": {...} | null}`.
A refused request is a 4xx `response` whose body carries the error object; `error` is for failures that have
no HTTP answer (the engine died). Source: OpenAI's batch API; the line objects of openai-openapi, 2024-10.
Added to the error object is `line`, as in the `errors` of OpenAI's batch object: the line's number in the
input. It names the lines whose custom_id cannot be read or is another line's, also for the next run.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
REFUSED = 400  # status of a request that the same engine would refuse again


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why one line is refused: an OpenAI error object, and what is known of the line.

    `custom_id` is None when it could not be read; the message then names the line. `offset` is where the line
    starts in the plain file, in bytes.
    """

    code: str
    message: str
    param: str | None = None
    status_code: int = REFUSED
    line_number: int
    custom_id: str | None = None
    offset: int = 0

    @property
    def is_readable(self) -> bool:
        """Whether the line is JSON, so that its custom_id is one for sure."""
        return self.code not in ("invalid_json_line", "line_too_long")

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
    """An error line for a refused request; its message starts with the line number."""
    error = {
        "message": f"Line {rejection.line_number}: {rejection.message}",
        "type": rejection.error_type,
        "param": rejection.param,
        "code": rejection.code,
        "line": rejection.line_number,
    }
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
