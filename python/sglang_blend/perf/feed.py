"""Where the simulated engine takes its next request from: a list in planned order, the two ends of a dual
scan, or the request that matches most of the cache.
"""

from __future__ import annotations

import heapq
from typing import Protocol

from sglang_blend.core.request import Schedule, Side
from sglang_blend.perf.arrays import IntArray
from sglang_blend.perf.kv_pool import KvPool
from sglang_blend.perf.segments import SegmentTree

# SGLang 0.5.17, `schedule_policy.py`: lpm matches no more than so many waiting requests; one that matches at
# most so many tokens of the cache, and so many of another such request, waits for that one.
_MOST_MATCHED = 128
_LITTLE_CACHED = _MUCH_SHARED = 32


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


class LongestPrefixFeed:
    """SGLang's `lpm`: before each pass, those that match most of the cache come first.

    Of several that share a prefix nobody has computed, one goes and the others wait (SGLang's in-batch prefix
    caching). With more than 128 waiting nothing is matched and the queue stays as it is.

    SGLang 0.5.17: `SchedulePolicy._determine_active_policy`, `._compute_prefix_matches`,
    `._sort_by_longest_prefix`.
    """

    def __init__(self, sequence: IntArray, tree: SegmentTree) -> None:
        self._queue = dict.fromkeys(sequence.tolist())  # in order, with removal from anywhere
        self._parent, _, self._end_len, self._leaf = tree.lists

    def arrange(self, pool: KvPool) -> None:
        """Sort the queue by what is cached now."""
        if len(self._queue) > _MOST_MATCHED:
            return
        leads: set[int] = {0}  # segments of requests that others may have to wait for
        key: dict[int, float] = {}
        for request in self._queue:
            cached = pool.match(request)[0] - pool.in_flight(request)[0]
            key[request] = -cached
            if cached <= _LITTLE_CACHED:
                path = self._path(request)
                shared = max(self._end_len[node] for node in (*path, 0) if node in leads)
                if shared >= _MUCH_SHARED:
                    key[request] = 1.0
                else:
                    leads.update(path)
        self._queue = dict.fromkeys(sorted(self._queue, key=key.__getitem__))

    def peek(self) -> int | None:
        """The first of the queue."""
        return next(iter(self._queue), None)

    def pop(self, request: int) -> None:
        """Takes the request that `peek` named."""
        del self._queue[request]

    def give_back(self, request: int) -> None:
        """A retracted request joins the end of the queue."""
        self._queue[request] = None

    def release(self, request: int) -> None:
        """Nothing depends on who runs."""

    def _path(self, request: int) -> list[int]:
        node, path = self._leaf[request], []
        while node:
            path.append(node)
            node = self._parent[node]
        return path
