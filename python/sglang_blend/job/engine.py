"""What a job needs of an engine. `sglang_blend.processes.engine` is the real one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from sglang_blend.job.feeding import Feeder
from sglang_blend.job.spool import RequestSpool
from sglang_blend.request import BatchLine, EngineFacts, Prepared, Rejection


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
