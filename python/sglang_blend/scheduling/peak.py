"""Whether the KV memory will suffice: the expected peak of everything that runs, one candidate at a time.

A request is admitted when the peak of memory that is expected with it stays within the pool. With the
requests sorted by falling remaining length, just before the k-th longest ends it and the longer ones have
grown by its remaining length, so

    peak = max_k(sum_{i<=k} context_i + k * remaining_k) + shared

Expected is the mean output length plus a margin that shrinks with the number of running requests: errors of
many requests cancel out, those of a few do not, and neither does an error of the estimate itself, which is
large before any request has finished. Retraction is the safety net.

Source: the simulation study of this project; `tests/oracles/naive_peak.py` has the plain form.
"""

from __future__ import annotations

import math

import numpy as np

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.scheduling.lengths import ExpectedLen

_MARGIN = 2.0


def with_margin(expected: ExpectedLen, num_running: int, doubt: float = 0.0) -> float:
    """Tokens to reserve for what a request will add.

    The expected mean, plus a part of the distance to the high quantile: 2 over the square root of the number
    of running requests, and the doubt of the estimate itself, added as independent errors are.
    """
    margin = min(math.hypot(_MARGIN / math.sqrt(max(num_running, 1)), doubt), 1.0)
    return expected.mean + margin * (expected.high - expected.mean)


class ExpectedPeak:
    """Peak of a set of requests, with one more of them answered and counted in a few array operations.

    For the requests sorted by falling remaining length it keeps the terms of the maximum: a candidate adds
    its context to all terms behind its place, and one more remaining length to each of them. The sum of
    what all hold and will add is an upper bound of the peak; while that fits, nothing is sorted.
    """

    def __init__(
        self, pool_tokens: float, shared_len: float, context_len: FloatArray, remaining_len: FloatArray
    ) -> None:
        """Start with what runs.

        Args:
            pool_tokens: M less what must stay free.
            shared_len: tokens held for several requests at once.
            context_len: (r,) tokens that each request holds alone.
            remaining_len: (r,) tokens that each will add.
        """
        self._pool = pool_tokens
        self._shared = shared_len
        self._sum = float(context_len.sum() + remaining_len.sum())
        self._size = len(context_len)
        room = max(2 * self._size, 64)
        self._is_sorted = False
        # As they came, then sorted by falling remaining length: minus that length (so that it rises), tokens
        # that it holds (once sorted: it and all before it), and the term.
        self._falling, self._held, self._term = np.empty(room), np.empty(room), np.empty(room)
        self._falling[: self._size], self._held[: self._size] = -remaining_len, context_len

    @property
    def num_requests(self) -> int:
        """Requests that count."""
        return self._size

    @property
    def median_remaining(self) -> float:
        """Tokens after which half of the requests are expected to have ended; 0 when nothing runs."""
        self._sort()
        return float(-self._falling[self._size // 2]) if self._size else 0.0

    def add(self, context_len: float, remaining_len: float, shared_len: float = 0) -> None:
        """Count one more request.

        Args:
            context_len: tokens it holds alone.
            remaining_len: tokens it will add.
            shared_len: tokens of its prefix that nobody has held so far.
        """
        self._shared += shared_len
        self._sum += context_len + remaining_len
        size = self._size
        if size == len(self._falling):
            more = np.empty(size)
            self._falling, self._held, self._term = (
                np.concatenate([column, more]) for column in (self._falling, self._held, self._term)
            )
        self._size += 1
        if not self._is_sorted:
            self._falling[size], self._held[size] = -remaining_len, context_len
            return
        at = self._place(remaining_len, size)
        falling, held, term = self._falling, self._held, self._term
        behind = slice(at + 1, size + 1)
        falling[behind], held[behind] = falling[at:size].copy(), held[at:size] + context_len
        term[behind] = term[at:size] + (context_len - falling[behind])
        falling[at] = -remaining_len
        held[at] = (held[at - 1] if at else 0.0) + context_len
        term[at] = held[at] + (at + 1) * remaining_len

    def fits(self, context_len: float, remaining_len: float, shared_len: float = 0) -> bool:
        """Whether the pool suffices with one more request; arguments as for `add`."""
        room = self._pool - self._shared - shared_len
        if self._sum + context_len + remaining_len <= room:
            return True
        self._sort()
        size = self._size
        at = self._place(remaining_len, size)
        own = (float(self._held[at - 1]) if at else 0.0) + context_len + (at + 1) * remaining_len
        if own > room or (at and self._term[:at].max() > room):
            return False
        return at == size or float((self._term[at:size] - self._falling[at:size]).max()) + context_len <= room

    def _place(self, remaining_len: float, size: int) -> int:
        """Requests that will add at least as much."""
        return int(self._falling[:size].searchsorted(-remaining_len, side="right"))

    def _sort(self) -> None:
        if self._is_sorted:
            return
        self._is_sorted = True
        size = self._size
        order = np.argsort(self._falling[:size], kind="stable")
        falling = self._falling[:size] = self._falling[:size][order]
        held = self._held[:size] = np.cumsum(self._held[:size][order])
        self._term[:size] = held - np.arange(1, size + 1) * falling


class WindowPeak:
    """Expected peak in the pool of the layers with a sliding window, where they have one of their own.

    What has left the window is freed, so a request holds no more than so many tokens there, however long it
    gets. One that will get there counts with all of that; the others count as in the pool of the full layers.
    """

    def __init__(
        self,
        *,
        pool_tokens: float,
        used_tokens: float,
        most_tokens: int,
        context_len: FloatArray,
        remaining_len: FloatArray,
    ) -> None:
        """Start with what runs.

        Args:
            pool_tokens: of the pool, less what must stay free.
            used_tokens: of it, by all that runs and by what the cache cannot give back.
            most_tokens: that one request may hold.
            context_len: (r,) tokens that each request holds alone in the pool of the full layers.
            remaining_len: (r,) tokens that each will add.
        """
        self._most = most_tokens
        is_long = context_len + remaining_len > most_tokens
        short = context_len[~is_long]
        to_grow = np.maximum(most_tokens - context_len[is_long], 0).sum()
        held_otherwise = max(used_tokens - short.sum(), 0.0)
        self._peak = ExpectedPeak(pool_tokens, held_otherwise + to_grow, short, remaining_len[~is_long])

    def fits(self, context_len: float, remaining_len: float) -> bool:
        """Whether the pool suffices with one more request; lengths as in the pool of the full layers."""
        return self._peak.fits(*self._as_here(context_len, remaining_len))

    def add(self, context_len: float, remaining_len: float) -> None:
        """One more request."""
        self._peak.add(*self._as_here(context_len, remaining_len))

    def _as_here(self, context_len: float, remaining_len: float) -> tuple[float, float, float]:
        """Context, remaining and held tokens: a long request ends up with all that it may hold."""
        if context_len + remaining_len > self._most:
            return 0.0, 0.0, self._most
        return context_len, remaining_len, 0.0
