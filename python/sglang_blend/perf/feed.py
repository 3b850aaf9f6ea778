"""Where the simulated engine takes its next request from: a list in planned order, or the two ends of a dual
scan. The queues that SGLang sorts by what is cached are in `stock_queues`.
"""

from __future__ import annotations

import heapq
from typing import Protocol

from sglang_blend.core.request import Schedule, Side
from sglang_blend.perf.arrays import IntArray
from sglang_blend.perf.kv_pool import KvPool


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


class TwoEndFeed:
    """The two ends of a dual-scan schedule, merged while it runs by the memory that each side really holds.

    Each side keeps its planned order. The next request is of the side that has room in its planned share of
    the pool (`Schedule.mem_share`), by the expected peaks of what it runs; where both or neither have, of
    the side that uses less of its share. What a finished or retracted request held is free for its side at
    once, so the feed adapts where lengths come out otherwise than planned.
    """

    def __init__(self, schedule: Schedule, prompt_len: IntArray, kv_pool_tokens: int) -> None:
        left = schedule.sequence[schedule.side[schedule.sequence] == Side.LEFT]
        others = schedule.sequence[schedule.side[schedule.sequence] != Side.LEFT]
        self._ends = (ListFeed(left), ListFeed(others))
        self._is_left: list[bool] = (schedule.side == Side.LEFT).tolist()
        self._peak: list[int] = (prompt_len + schedule.est_output_len).tolist()
        self._room: list[float] = (schedule.mem_share * kv_pool_tokens).tolist()
        self._used = [0.0, 0.0]

    def arrange(self, pool: KvPool) -> None:
        """What is in the cache decides nothing."""

    def peek(self) -> int | None:
        """The request of the end whose turn it is."""
        left, right = self._ends[0].peek(), self._ends[1].peek()
        if left is None or right is None:
            return right if left is None else left
        filled = [
            (self._used[end] + self._peak[request]) / max(self._room[request], 1.0)
            for end, request in enumerate((left, right))
        ]
        return left if filled[0] <= filled[1] else right

    def pop(self, request: int) -> None:
        """Takes the request that `peek` named; its side holds its expected peak from now on."""
        end = self._end_of(request)
        self._ends[end].pop(request)
        self._used[end] += self._peak[request]

    def give_back(self, request: int) -> None:
        """Queues a retracted request again, at its own end."""
        end = self._end_of(request)
        self._ends[end].give_back(request)
        self._used[end] -= self._peak[request]

    def release(self, request: int) -> None:
        """A finished request gives back its side's memory."""
        self._used[self._end_of(request)] -= self._peak[request]

    def _end_of(self, request: int) -> int:
        return 0 if self._is_left[request] else 1
