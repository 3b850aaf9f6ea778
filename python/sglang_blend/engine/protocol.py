"""What a job needs of an engine that was started: `local` is the one on this machine, `cluster` has many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from sglang_blend.core import RequestTable
from sglang_blend.plan.feed import Feeder
from sglang_blend.request import BatchLine, EngineFacts, Prepared, Rejection


class Engine(Protocol):
    """Prepares and answers requests; a context manager, whose end leaves nothing running."""

    def facts(self) -> EngineFacts:
        """What planning needs to know; once the engine is ready."""

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """Check each body and tokenize it, without running it; in the order of `lines`."""

    def feeder(self, table: RequestTable, window: int) -> Feeder:
        """Hands requests to it; once the engine is ready.

        Args:
            table: the prompts, by row.
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

    @property
    def num_restarts(self) -> int:
        """How often it died and was started again."""

    @property
    def num_retries(self) -> int:
        """How often a request was sent again because the engine had died at it."""

    def record(self) -> dict[str, Any]:
        """What else there is to say of it in the record of a run, as JSON values."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...

    async def __aenter__(self) -> Engine:
        """Wait until it can answer; what feeds it stands inside.

        Raises:
            EngineError: it did not start.
        """

    async def __aexit__(self, *exc: object) -> None: ...
