"""What a job needs of an engine. `sglang_blend.processes.engine` is the real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from sglang_blend.job.input import BatchLine
from sglang_blend.job.records import Rejection
from sglang_blend.scheduling.policies import POLICIES

if TYPE_CHECKING:
    from sglang_blend.job.feeding import Feeder
    from sglang_blend.job.spool import RequestSpool

TokenIds = Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int32]]


class Prepared(NamedTuple):
    """What the planner needs of one request.

    `max_new_tokens` caps the output; `fixed_output` says it is exactly that long. Requests of different
    `namespace` (LoRA adapter, extra key) never share a prefix.
    """

    token_ids: TokenIds
    max_new_tokens: int
    fixed_output: bool
    namespace: str


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


class Failure(NamedTuple):
    """Why one request got no answer at all."""

    code: str
    message: str


class Engine(Protocol):
    """Prepares and answers requests."""

    def facts(self) -> EngineFacts:
        """What planning needs to know; once the engine is ready."""

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """Check each body and tokenize it, without running it; in the order of `lines`."""

    def feeder(self, spool: RequestSpool, window: int) -> Feeder:
        """Hands requests to it; once the engine is ready.

        Args:
            spool: the prompts, by row.
            window: requests that an engine holds at a time.
        """

    async def server_info(self) -> list[dict[str, Any]]:
        """SGLang's internal state of each scheduler (`get_server_info()["internal_states"]`).

        Raises:
            EngineError: the engine is not running.
        """

    async def flush_cache(self) -> bool:
        """Empty the radix cache; False, and nothing done, while a request runs.

        Raises:
            EngineError: the engine is not running.
        """


class RunningEngine(Engine, Protocol):
    """An engine that was started: a context manager that stops it."""

    @property
    def num_restarts(self) -> int:
        """How often it died and was started again."""

    @property
    def num_retries(self) -> int:
        """How often a request was sent again because the engine had died at it."""

    def record(self) -> dict[str, Any]:
        """What else there is to say of it in the record of a run, as JSON values."""

    def __enter__(self) -> RunningEngine: ...

    def __exit__(self, *exc: object) -> None: ...

    async def __aenter__(self) -> RunningEngine:
        """Wait until it can answer; what feeds it stands inside.

        Raises:
            EngineError: it did not start.
        """

    async def __aexit__(self, *exc: object) -> None: ...
