"""Progress on stderr: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import logging
import shutil
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

PLAIN_LINE_INTERVAL_S = 10.0


class Progress:
    """Counts finished requests and their tokens. Use as a context manager.

    Rates are means since the start: requests a second, and tokens (prompt and output) a second.
    """

    def __init__(self, description: str, total: int, *, terminal: bool | None = None) -> None:
        """Args: total: requests to come. terminal: draw a bar; None asks stderr."""
        self._description = description
        self._total = total
        self._num_done = 0
        self._num_tokens = 0
        self._started_at = self._told_at = time.monotonic()
        terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: tqdm[None] | None = None
        if terminal:
            # Asked here, because tqdm draws nothing where a terminal says that it has no columns or rows.
            columns, rows = shutil.get_terminal_size()
            self._bar = tqdm(
                total=total, desc=description, unit="req", ncols=columns, nrows=rows, smoothing=0.05
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._num_done:
            self._tell(time.monotonic())

    def add(self, num_tokens: int = 0) -> None:
        """One more request is finished; `num_tokens` is its prompt and output together."""
        self._num_done += 1
        self._num_tokens += num_tokens
        now = time.monotonic()
        if self._bar is not None:
            if self._num_tokens:
                self._bar.set_postfix_str(f"{self._token_rate(now):,.0f} tok/s", refresh=False)
            self._bar.update()
        elif now - self._told_at >= PLAIN_LINE_INTERVAL_S:
            self._tell(now)

    def _token_rate(self, now: float) -> float:
        return self._num_tokens / max(now - self._started_at, 1e-9)

    def _tell(self, now: float) -> None:
        self._told_at = now
        rate = self._num_done / max(now - self._started_at, 1e-9)
        tokens = f", {self._token_rate(now):,.0f} tok/s" if self._num_tokens else ""
        left = self._total - self._num_done
        eta = f", about {left / rate:,.0f} s left" if left else ""
        logger.info(
            "%s: %d of %d requests, %.1f req/s%s%s",
            self._description, self._num_done, self._total, rate, tokens, eta,
        )  # fmt: skip
