"""Follows the decode batch from step to step: who joined, who left, what they share.

All it is told is what SGLang tells an attention backend: the rows of `req_to_token` and the lengths. A
request that goes on has one token more than in the step before and was in no prefill since; a row of
anything else is a newcomer's, even if it is known (rows are reused). Most steps change nothing, and then the
same `SharedRuns` object comes back.

Slots are looked at once. That is enough: slots that two requests have in common belong to the radix cache and
are locked by both, so they stay while either runs. Under the overlap schedule the first decode step is
started before the result of the prefill is processed, and only then the cache may give a request the slots of
an equal prompt for its own, which are free from then on. So there a request shares nothing in its first step,
and is looked at in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sglang_blend.attention.prefix_forest import PrefixForest
from sglang_blend.attention.shared_runs import IntArray, SharedRuns, SlotArray
from sglang_blend.cost.break_even import BreakEven

# Slots of the requests at these positions of the batch, each but its last token: that one is being decoded.
FetchSlots = Callable[[IntArray], Iterable[SlotArray]]
_NO_SLOTS: SlotArray = np.zeros(0, np.int32)


class DecodeGroups:
    """What the decode batch shares, updated with each step.

    Args:
        break_even: when it pays to read together.
        settle_late: under the overlap schedule: a request's slots are final in its second decode step only.
    """

    def __init__(self, break_even: BreakEven, *, settle_late: bool = False) -> None:
        self._settle_late = settle_late
        self._unsettled: set[int] = set()  # rows in their first step, in the forest without slots
        self._forest = PrefixForest(break_even)
        self._rows: IntArray = np.zeros(0, np.int64)
        self._next_len: IntArray = np.zeros(0, np.int64)  # by row; 0 for rows that are not known
        self._runs = self._forest.shared_runs(self._rows)

    def on_prefill(self, rows: IntArray) -> None:
        """The slots of these rows may change."""
        self._reserve(rows)
        self._next_len[rows] = 0

    def update(self, rows: IntArray, lens: IntArray, fetch: FetchSlots) -> SharedRuns:
        """A decode step is about to run.

        Args:
            rows: (bs,) int64, of `req_to_token`, each once.
            lens: (bs,) int64, tokens of each request, the one being decoded included; 1 or more.
            fetch: copies of the slots of newcomers, in the order of the positions it is given.
        """
        self._reserve(rows)
        goes_on = self._next_len[rows] == lens
        if goes_on.all() and np.array_equal(rows, self._rows) and not self._unsettled:
            self._next_len[rows] += 1
            return self._runs
        staying = np.zeros(len(self._next_len), np.bool_)
        staying[rows[goes_on]] = True
        left = self._rows[~staying[self._rows]]
        for row in left.tolist():
            self._forest.leave(row)
        self._next_len[left] = 0
        settled = np.isin(rows, list(self._unsettled)) & goes_on
        for row in rows[settled].tolist():
            self._forest.leave(row)
        new = ~goes_on
        self._unsettled = set(rows[new].tolist()) if self._settle_late else set()
        for row in self._unsettled:
            self._forest.join(row, _NO_SLOTS)
        joined = np.flatnonzero(settled if self._settle_late else new)
        for row, slots in zip(rows[joined].tolist(), fetch(joined), strict=True):
            self._forest.join(row, slots)
        self._next_len[rows] = lens + 1
        self._rows = rows.copy()
        self._runs = self._forest.shared_runs(rows)
        return self._runs

    def _reserve(self, rows: IntArray) -> None:
        missing = int(rows.max(initial=-1)) + 1 - len(self._next_len)
        if missing > 0:
            self._next_len = np.append(self._next_len, np.zeros(missing, np.int64))
