"""`stop_regex` with a deadline: SGLang searches at each token, in its scheduler's loop, to whatever end.

SGLang 0.5.17, `schedule_batch.Req`: `re.search(pattern, tail)`. A pattern that backtracks stops all requests.
`bound` puts the `search` below in its place: one search has 50 ms, and a pattern whose slow searches took a
second together is refused from then on, as one that does not compile: SGLang ends it with status 400.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from types import SimpleNamespace

import regex

SEARCH_S = 0.05
PATTERN_S = 1.0
# Searches below this are what a pattern may cost, however often.
_SLOW_S = 0.002
_MOST_PATTERNS = 10_000


class BoundedSearch:
    """`search` of `re`, for patterns that strangers wrote."""

    def __init__(self, *, search_s: float = SEARCH_S, pattern_s: float = PATTERN_S) -> None:
        self._search_s, self._pattern_s = search_s, pattern_s
        self._spent_s: defaultdict[str, float] = defaultdict(float)

    def search(self, pattern: str, text: str) -> regex.Match[str] | None:
        """The first match; None also where there was no time to find one.

        Raises:
            re.error: the pattern is none, or has taken too much time by now.
        """
        if self._spent_s[pattern] >= self._pattern_s:
            raise re.error("it takes too long to search")
        start = time.perf_counter()
        try:
            return regex.search(pattern, text, timeout=self._search_s)
        except TimeoutError:
            self._spent_s[pattern] = self._pattern_s
            return None
        except regex.error as e:
            raise re.error(str(e)) from e
        finally:
            seconds = time.perf_counter() - start
            if seconds >= _SLOW_S:
                if len(self._spent_s) >= _MOST_PATTERNS:
                    self._spent_s.clear()
                self._spent_s[pattern] += seconds


def bound() -> None:
    """In this process, from now on."""
    from sglang.srt.managers import schedule_batch

    schedule_batch.re = SimpleNamespace(search=BoundedSearch().search, error=re.error)
