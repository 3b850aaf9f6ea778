"""Whether the pool of the layers with a sliding window will suffice, where they have one of their own.

What has left the window is freed, so a request holds no more than so many tokens there, however long it gets.
One that will get there counts with all of that; the others count as in the pool of the full layers.
"""

from __future__ import annotations

import numpy as np

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.scheduling.peak import ExpectedPeak


class WindowPeak:
    """Expected peak of a set of requests in such a pool."""

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
