"""The vocabulary of a request: what it is called on its way from a line of a batch file to an answer.

    BatchLine   an accepted line                       -> Prepared   checked and tokenized
    Rejection   why a line, or its body, is refused    -> Answer     what the engine said, good or bad
                                                       -> Failure    why it said nothing

Everybody speaks of requests in these words: the files of a job, its plan, the processes, the replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

# The schedule policies of this package, as `--schedule-policy` names them; `srt.policy` executes them.
POLICIES = ("dual-scan", "stationary")
REFUSED = 400  # status of a request that the same engine would refuse again

TokenIds = Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int32]]


class BatchLine(NamedTuple):
    """An accepted line: its envelope is right, and its body as far as that is known without an engine."""

    line_number: int
    offset: int
    custom_id: str
    url: str
    body: dict[str, Any]


def error_object(
    code: str, message: str, *, param: str | None = None, status_code: int = REFUSED
) -> dict[str, Any]:
    """OpenAI's error object: of a request that was wrong, or, from status 500 on, of one that was not."""
    kind = "invalid_request_error" if status_code < 500 else "server_error"
    return {"message": message, "type": kind, "param": param, "code": code}


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
    def error(self) -> dict[str, Any]:
        """The error object."""
        return error_object(self.code, self.message, param=self.param, status_code=self.status_code)


class Prepared(NamedTuple):
    """What the planner needs of one request.

    `max_new_tokens` caps the output; `fixed_output` says it is exactly that long. Requests of different
    `namespace` (LoRA adapter, extra key) never share a prefix.
    """

    token_ids: TokenIds
    max_new_tokens: int
    fixed_output: bool
    namespace: str


def namespace(lora_path: object, extra_key: object) -> str:
    """What keeps KV apart in SGLang: requests of different namespaces never share a prefix.

    Args:
        lora_path: the adapter, None for none.
        extra_key: the caller's own; of an OpenAI body its `cache_salt` and `extra_key` one after the other.

    Source: SGLang 0.5.17, `Req.__init__`, which puts the adapter behind the key.
    """
    return f"{lora_path or ''}\0{extra_key or ''}"


class Answer(NamedTuple):
    """The HTTP answer to one request. Token counts are 0 for a refused one.

    `is_written`: its record is in a part of the output already; then it comes without its body.
    """

    status_code: int
    body: dict[str, Any]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    is_written: bool = False


class Failure(NamedTuple):
    """Why one request got no answer at all."""

    code: str
    message: str


class EngineFacts(NamedTuple):
    """What planning needs to know of a running engine.

    Attributes:
        model_config: content of the model's config.json.
        device_name: the accelerator as its driver says it, or "cpu".
        tp_size: tensor parallel size.
        kv_pool_tokens: tokens that the KV pool holds.
        page_size: tokens of a KV page.
        max_running_requests: requests that the running batch may hold.
        policy: its schedule policy, ours or one of SGLang's.
        shares_reads: its attention reads KV that requests share once a decode step.
        num_replicas: engines like this one that answer together.
        mode: how its steps combine prefill and decode: default, mixed or pdmux.
        chunk_tokens: most tokens of a step with prefill; None where SGLang cuts no prompts.
        kv_cache_dtype: SGLang's `--kv-cache-dtype`.
    """

    model_config: dict[str, Any]
    device_name: str
    tp_size: int
    kv_pool_tokens: int
    page_size: int
    max_running_requests: int
    policy: str
    shares_reads: bool = False
    num_replicas: int = 1
    mode: Literal["default", "mixed", "pdmux"] = "default"
    chunk_tokens: int | None = None
    kv_cache_dtype: str = "auto"

    @property
    def takes_hints(self) -> bool:
        """Whether its schedule policy executes a plan."""
        return self.policy in POLICIES
