"""Where the simulated engine takes its next request from: a list in planned order.

The queues that SGLang sorts by what is cached are in `stock_queues`.
"""

from __future__ import annotations

import heapq
from typing import Protocol

from sglang_blend.core.cost_model import IntArray
from sglang_blend.simulate.kv_pool import KvPool


class Feed(Protocol):
    """The waiting queue."""

    def arrange(self, pool: KvPool) -> None:
        """A prefill pass begins."""
        ...

    def peek(self) -> int | None:
        """The request to try next; None when none waits."""
        ...

    def pop(self, request: int) -> None:
        """Takes the request that `peek` named."""
        ...

    def give_back(self, request: int) -> None:
        """Queues a retracted request again, at its planned place."""
        ...

    def release(self, request: int) -> None:
        """A request has finished."""
        ...


class ListFeed:
    """Requests in a fixed order; a retracted one comes first again, as its rank says."""

    def __init__(self, sequence: IntArray) -> None:
        self._sequence: list[int] = sequence.tolist()
        self._rank = {request: rank for rank, request in enumerate(self._sequence)}
        self._next = 0
        self._returned: list[tuple[int, int]] = []

    def arrange(self, pool: KvPool) -> None:
        """The order is fixed."""

    def peek(self) -> int | None:
        """The request of the lowest rank that waits."""
        if self._returned:
            return self._returned[0][1]
        return self._sequence[self._next] if self._next < len(self._sequence) else None

    def pop(self, request: int) -> None:
        """Takes the request that `peek` named."""
        if self._returned:
            heapq.heappop(self._returned)
        else:
            self._next += 1

    def give_back(self, request: int) -> None:
        """Queues a retracted request again."""
        heapq.heappush(self._returned, (self._rank[request], request))

    def release(self, request: int) -> None:
        """Nothing depends on who runs."""
