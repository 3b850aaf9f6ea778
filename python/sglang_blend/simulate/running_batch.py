"""The running batch of the simulated engine, kept as sums and a finish heap.

Each decode step adds one token to every running request, so a step changes only two sums; requests are
looked at when they join, finish, are retracted, or grow past a sliding window. `Forecast` keeps what
admission and pacing ask about: expected finishes in order.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray


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

    def steps_since_joins(self) -> int:
        """Decode steps of all running requests since they joined, together."""
        return sum(self.step_no - since for since, _, _ in self._joined.values())

    def _is_stale(self, entry: tuple[int, int, int]) -> bool:
        joined = self._joined.get(entry[2])
        return joined is None or joined[2] != entry[1]


class Forecast:
    """Expected finishes of the admitted requests, in order, as arrays.

    All times are decode steps counted as if a request joined when it was admitted. An estimate that has run
    out becomes "an eighth of what it generated, at least 8 steps", again and again.
    """

    def __init__(self) -> None:
        self._size = 0
        self._final_private = 0.0  # private tokens that each holds when it is expected to finish
        # (5, capacity) float64 by ascending expected finish: finish step, private tokens and kv
        # tokens (both less the
        # step of admission, so that adding the step gives the present value), estimated output,
        # cap on the finish step.
        self._rows = np.zeros((5, 256))
        self._requests = np.zeros(256, np.int64)

    @property
    def size(self) -> int:
        """Admitted requests."""
        return self._size

    def add(
        self,
        request: int,
        *,
        step_no: int,
        private_len: int,
        kv_len: int,
        est_steps: float,
        cap_steps: float,
        generated: int,
    ) -> None:
        """Adds an admitted request: tokens now, expected and largest number of decode steps to go, tokens
        generated before.
        """
        if self._size == self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)], axis=1)
            self._requests = np.concatenate([self._requests, np.zeros_like(self._requests)])
        finish = step_no + est_steps
        size = self._size
        at = int(self._rows[0, :size].searchsorted(finish, side="right"))
        self._rows[:, at + 1 : size + 1] = self._rows[:, at:size]
        self._requests[at + 1 : size + 1] = self._requests[at:size]
        self._rows[:, at] = (
            finish,
            private_len - step_no,
            kv_len - step_no,
            est_steps + generated,
            step_no + cap_steps,
        )
        self._requests[at] = request
        self._size += 1
        self._final_private += private_len + est_steps

    def remove(self, request: int) -> None:
        """Forgets a request that finished, was retracted or not admitted after all."""
        at = int((self._requests[: self._size] == request).argmax())
        assert self._requests[at] == request, f"request {request} is not in the forecast"
        self._final_private -= float(self._rows[0, at] + self._rows[1, at])
        self._rows[:, at : self._size - 1] = self._rows[:, at + 1 : self._size]
        self._requests[at : self._size - 1] = self._requests[at + 1 : self._size]
        self._size -= 1

    def fits(self, step_no: int, limit: float) -> bool:
        """Whether `peak_private` stays within the limit."""
        if self._size and self._rows[0, 0] > step_no and self._final_private <= limit:
            return True  # even if nobody finished before the last
        return self.peak_private(step_no) <= limit

    def peak_private(self, step_no: int) -> float:
        """Largest sum of private tokens that is to be expected, from now on, if nothing more is admitted.

        Usage grows by one token a request and step and falls at finishes, so it peaks right before one: max
        over k of sum_{i finishes not before k} (private_i + rem_k).
        """
        if not self._size:
            return 0.0
        rem, private = self.remaining(step_no), self._rows[1, : self._size] + step_no
        if self._rows[0, 0] <= step_no:  # estimates that ran out are no longer in order
            order = np.argsort(rem, kind="stable")
            rem, private = rem[order], private[order]
        later = private[::-1].cumsum()[::-1]
        return float((later + np.arange(self._size, 0, -1) * rem).max())

    def remaining(self, step_no: int) -> FloatArray:
        """(size,) float64, expected decode steps to go of each admitted request."""
        rem = self._rows[0, : self._size] - step_no
        if rem.size and rem[0] <= 0:
            generated = self._rows[3, : self._size] - rem
            rem = np.where(rem > 0, rem, np.maximum(np.floor(generated / 8.0), 8.0))
        return rem

    def kv_lens(self, step_no: int) -> FloatArray:
        """(size,) float64, KV tokens of each admitted request, in the order of `remaining`."""
        kv_lens: FloatArray = self._rows[2, : self._size] + step_no
        return kv_lens

    def reserved(self, step_no: int, clip: float) -> float:
        """Tokens that all admitted requests may still generate by their caps, at most `clip` each."""
        return float(np.clip(self._rows[4, : self._size] - step_no, 0.0, clip).sum())

    @property
    def requests(self) -> IntArray:
        """(size,) int64, in the order of `remaining`."""
        return self._requests[: self._size]
