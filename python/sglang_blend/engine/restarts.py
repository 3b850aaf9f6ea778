"""How often, and how soon, something that dies is started again; the rule of an engine and of a replica."""

from __future__ import annotations

MAX_BACKOFF_S = 60.0


class Restarts:
    """Counts restarts between which nothing was achieved; each waits twice as long as the one before."""

    def __init__(self, most: int, first_backoff_s: float = 1.0) -> None:
        """Args: most: restarts in a row, further ones are given up."""
        self.most = most
        self._first_backoff_s = first_backoff_s
        self._num_fruitless = 0

    def was_fruitful(self) -> None:
        """Something was achieved: restarts are counted anew."""
        self._num_fruitless = 0

    def next_wait_s(self) -> float | None:
        """Seconds to wait before the next start, which counts from now on; None to give up."""
        if self._num_fruitless >= self.most:
            return None
        self._num_fruitless += 1
        return min(self._first_backoff_s * 2.0 ** (self._num_fruitless - 1), MAX_BACKOFF_S)
