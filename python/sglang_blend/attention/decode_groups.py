"""Follows the decode batch from step to step: who joined, who left, what they share.

All it is told is what SGLang tells an attention backend: the rows of `req_to_token` and the lengths. A
request that goes on has one token more than in the step before and was in no prefill since; a row of
anything else is a newcomer's, even if it is known (rows are reused). Most steps change nothing, and then the
same `SharedRuns` object comes back.

Slots are looked at once, when a request joins. That is enough: slots that two requests have in common belong
to the radix cache and are locked by both, so they stay while either runs. (With the overlap schedule SGLang
may later exchange slots that a request has alone, for those of an equal prompt; the private part is always
read through the row as it is.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sglang_blend.attention.break_even import BreakEven
from sglang_blend.attention.prefix_forest import PrefixForest
from sglang_blend.attention.shared_runs import IntArray, SharedRuns, SlotArray

# Slots of the requests at these positions of the batch, each but its last token: that one is being decoded.
FetchSlots = Callable[[IntArray], Iterable[SlotArray]]


class DecodeGroups:
    """What the decode batch shares, updated with each step."""

    def __init__(self, break_even: BreakEven) -> None:
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
        if goes_on.all() and np.array_equal(rows, self._rows):
            self._next_len[rows] += 1
            return self._runs
        staying = np.zeros(len(self._next_len), np.bool_)
        staying[rows[goes_on]] = True
        left = self._rows[~staying[self._rows]]
        for row in left.tolist():
            self._forest.leave(row)
        self._next_len[left] = 0
        joined = np.flatnonzero(~goes_on)
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
