"""What the report needs to know of a run beside its results: a few lines in a file that each run appends to.

    {"plan": {...}}       what was planned and predicted, with the largest shared prefixes
    {"requests": {...}}   expected and true lengths and latencies of a sample of the requests, as columns
    {"end": {...}}        seconds of each phase, and what the schedulers counted

Written when the run ends, unless it is killed. Costs microseconds a request and never fails a job.
"""

from __future__ import annotations

import logging
import math
import random
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_blend.jsonl import BoundedLines
from sglang_blend.request import Answer

logger = logging.getLogger(__name__)

SAMPLE_SIZE = 20_000


class RequestSample:
    """Answered requests of a run: totals over all of them, and a uniform sample of bounded size."""

    _COLUMNS = (
        "submitted_s",
        "latency_s",
        "rank",
        "prompt_len",
        "cached_len",
        "output_len",
        "est_output_len",
        "max_new_tokens",
    )

    def __init__(self, *, size: int = SAMPLE_SIZE, seed: int = 0) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._columns = [array("d") for _ in self._COLUMNS]
        self.num_requests = 0
        self._latency_s = self._longest_s = 0.0

    def add(self, *values: float) -> None:
        """Args: values: of one request, in the order of `to_json`'s columns; NaN where there is none."""
        latency_s = values[1]
        self.num_requests += 1
        self._latency_s += latency_s
        self._longest_s = max(self._longest_s, latency_s)
        if self.num_requests <= self._size:
            for column, value in zip(self._columns, values, strict=True):
                column.append(value)
            return
        place = self._random.randrange(self.num_requests)  # reservoir sampling, algorithm R
        if place < self._size:
            for column, value in zip(self._columns, values, strict=True):
                column[place] = value

    def to_json(self) -> dict[str, Any]:
        """Counts, and the columns of the sample: seconds since the start of the run, tokens, planned rank."""
        return {
            "num_requests": self.num_requests,
            "mean_latency_s": self._latency_s / max(self.num_requests, 1),
            "longest_latency_s": self._longest_s,
            "sample": {
                name: [_short(value) for value in column]
                for name, column in zip(self._COLUMNS, self._columns, strict=True)
            },
        }


class RunRecord:
    """Collects while the job runs; `write` appends to the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = time.monotonic()
        self.started_at = time.time()
        self.requests = RequestSample()

    def add(
        self, submitted: float, answer: Answer, *, hints: dict[str, Any] | None, max_new_tokens: int
    ) -> None:
        """A request was answered just now.

        Args:
            submitted: when it was handed to the engine, by `time.monotonic`.
            hints: what it carried to the scheduler.
        """
        planned = hints or {}
        self.requests.add(
            submitted - self._started,
            time.monotonic() - submitted,
            planned.get("rank", math.nan),
            answer.prompt_tokens,
            answer.cached_tokens,
            answer.output_tokens,
            planned.get("est_output_len", math.nan),
            max_new_tokens,
        )

    def write(self, plan: Callable[[], dict[str, Any]], end: dict[str, Any]) -> None:
        """Append this run to the file.

        Args:
            plan: facts of the plan, made now; whatever it raises is logged.
            end: how the run went.
        """
        lines = BoundedLines(self._path)
        try:
            lines.append({"plan": {"started_at": self.started_at, **plan()}})
        except Exception:  # the results are safe; a report without a plan is better than a failed job
            logger.warning("The report will lack the plan.", exc_info=True)
            lines.append({"plan": {"started_at": self.started_at}})
        lines.append({"requests": self.requests.to_json()})
        lines.append({"end": end})
        lines.close()


def _short(value: float) -> float | None:
    """As few characters as it needs; JSON has no NaN."""
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else round(value, 4)
