"""The running batch of the simulated engine, kept as sums and a finish heap.

Each decode step adds one token to every running request, so a step changes only two sums; requests are
looked at when they join, finish, are retracted, or grow past a sliding window.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping


class RunningBatch:
    """Requests in decode.

    Attributes:
        step_no: decode steps so far.
        size: running requests.
        kv_tokens: cached tokens of all of them, shared ones counted per reader.
        window_tokens: the same with each request capped at the sliding window.
        num_growing: requests that have not reached the window.
    """

    def __init__(self, window: int | None) -> None:
        self.step_no = 0
        self.size = 0
        self.kv_tokens = 0
        self.window_tokens = 0
        self.num_growing = 0
        self._window = window
        self._num_joins = 0
        # Heaps of (step, join number, request); an entry whose join number is not the request's own is stale.
        self._finish: list[tuple[int, int, int]] = []
        self._reach: list[tuple[int, int, int]] = []  # when a request reaches the window
        self._joined: dict[
            int, tuple[int, int, int]
        ] = {}  # request -> (step_no and KV tokens at join, join number)

    def join(self, request: int, kv_len: int, num_steps: int) -> None:
        """Adds a request with `kv_len` cached tokens and `num_steps` (>= 1) decode steps to go."""
        self._num_joins += 1
        self._joined[request] = (self.step_no, kv_len, self._num_joins)
        heapq.heappush(self._finish, (self.step_no + num_steps, self._num_joins, request))
        self.size += 1
        self.kv_tokens += kv_len
        if self._window is not None:
            self.window_tokens += min(kv_len, self._window)
            if kv_len < self._window:
                self.num_growing += 1
                heapq.heappush(self._reach, (self.step_no + self._window - kv_len, self._num_joins, request))

    def next_event(self) -> int:
        """Decode steps until a request finishes or reaches the window; at least 1. The batch is not empty."""
        while self._is_stale(self._finish[0]):
            heapq.heappop(self._finish)
        until = self._finish[0][0]
        if self._reach:
            until = min(until, self._reach[0][0])
        return until - self.step_no

    def advance(self, num_steps: int) -> list[tuple[int, int]]:
        """Decodes `num_steps` (<= next_event()) steps; returns the finished requests and their KV lengths."""
        self.step_no += num_steps
        self.kv_tokens += num_steps * self.size
        self.window_tokens += num_steps * self.num_growing
        while self._reach and self._reach[0][0] <= self.step_no:
            entry = heapq.heappop(self._reach)
            if not self._is_stale(entry):
                self.num_growing -= 1
        finished = []
        while self._finish and self._finish[0][0] <= self.step_no:
            entry = heapq.heappop(self._finish)
            if not self._is_stale(entry):
                finished.append((entry[2], self.remove(entry[2])))
        return finished

    def remove(self, request: int) -> int:
        """Takes a request out (finished or retracted); returns its KV length."""
        since, kv_len, _ = self._joined.pop(request)
        kv_len += self.step_no - since
        self.size -= 1
        self.kv_tokens -= kv_len
        if self._window is not None:
            self.window_tokens -= min(kv_len, self._window)
            if kv_len < self._window:
                self.num_growing -= 1
        return kv_len

    def retraction_victim(self, generated_before: Mapping[int, int]) -> int:
        """The request that SGLang would retract: fewest output tokens, then the longest KV, then the latest
        number.
        """
        now = self.step_no
        return min(
            self._joined,
            key=lambda r: (generated_before[r] + now - self._joined[r][0], -self._joined[r][1], -r),
        )

    def steps_since_join(self, request: int) -> int:
        """Decode steps that a running request has done since it joined."""
        return self.step_no - self._joined[request][0]

    def count_generated(self, requests: Iterable[int], before: Mapping[int, int]) -> list[int]:
        """Output tokens of each: those `before` it joined, and one for each step since if it has."""
        joined, now = self._joined, self.step_no
        return [before[r] + now - joined[r][0] if r in joined else before[r] for r in requests]

    def steps_since_joins(self) -> int:
        """Decode steps of all running requests since they joined, together."""
        return sum(self.step_no - since for since, _, _ in self._joined.values())

    def _is_stale(self, entry: tuple[int, int, int]) -> bool:
        joined = self._joined.get(entry[2])
        return joined is None or joined[2] != entry[1]
