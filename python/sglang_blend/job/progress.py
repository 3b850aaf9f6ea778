"""Progress on stderr: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from datetime import timedelta

from tqdm import tqdm

from sglang_blend.console import counted

logger = logging.getLogger(__name__)

PLAIN_LINE_INTERVAL_S = 10.0
_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Progress:
    """Counts finished requests, their tokens and the work that was expected of them. A context manager.

    Rates are means since the start: requests a second, and tokens (prompt and output) a second. The time
    left is the time so far, times the expected work that is left over that which is done: the plan says how
    requests compare, the clock says how fast this machine is. Without a plan, requests count alike.
    """

    def __init__(self, phase: str, total: int, *, terminal: bool | None = None) -> None:
        """Args: total: requests to come. terminal: draw a bar; None asks stderr."""
        self._phase = phase
        self._total = total
        self._num_done = 0
        self._num_tokens = 0
        self._work_done, self._total_work = 0.0, float(total)
        self._started_at = self._told_at = time.monotonic()
        self._work_from = self._started_at
        terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: tqdm[None] | None = None
        if terminal:
            # Asked here, because tqdm draws nothing where a terminal says that it has no columns or rows.
            columns, rows = shutil.get_terminal_size()
            self._bar = tqdm(total=total, desc=phase, ncols=columns, nrows=rows, bar_format=_BAR_FORMAT)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._num_done:
            self._tell(time.monotonic())

    def begin(self, phase: str, total_work: float | None = None) -> None:
        """The next phase of the same requests.

        Args:
            total_work: of all that are still to come, in any unit, as `add` counts it; from now on.
        """
        self._phase = phase
        if total_work is not None:
            self._work_done, self._total_work = 0.0, total_work
            self._work_from = time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(phase)

    def add(self, num_tokens: int = 0, work: float = 1.0) -> None:
        """One more request is finished; `num_tokens` is its prompt and output together."""
        self._num_done += 1
        self._num_tokens += num_tokens
        self._work_done += work
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(self._rates(now), refresh=False)
            self._bar.update()
        elif now - self._told_at >= PLAIN_LINE_INTERVAL_S:
            self._tell(now)

    def left_s(self, now: float) -> float | None:
        """Seconds that are left, by expected work; None when everything is done."""
        if self._num_done >= self._total or self._work_done <= 0.0:
            return None
        left = max(self._total_work - self._work_done, 0.0)
        return (now - self._work_from) * left / self._work_done

    def _rates(self, now: float) -> str:
        seconds = max(now - self._started_at, 1e-9)
        words = [f"{self._num_done / seconds:,.1f} req/s"]
        if self._num_tokens:
            words.append(f"{self._num_tokens / seconds:,.0f} tok/s")
        if (left_s := self.left_s(now)) is not None:
            words.append(f"about {timedelta(seconds=round(left_s))} left")
        return ", ".join(words)

    def _tell(self, now: float) -> None:
        self._told_at = now
        total = counted(self._total, "request")
        logger.info("%s: %s of %s, %s", self._phase, f"{self._num_done:,}", total, self._rates(now))
