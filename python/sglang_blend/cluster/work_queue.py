"""Which request a replica runs next: its own part in planned order, then what it takes from others.

    queue = WorkQueue(sequence, part, unit=schedule.unit, work_s=work_s, num_replicas=2)
    row = queue.take(replica)            # None: nothing waits anywhere
    queue.give_back(replica, rows)       # the replica died at them

An idle replica takes from the far end of the part that has most time left, whole units (subtrees that the
plan keeps together), until it has its fair share of what is left there; the owner goes on at the near end.
Where one unit is all that is left it is divided, so that the last minutes never wait for one replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost import FloatArray, IntArray


class WorkQueue:
    """The waiting requests of all replicas. Pure bookkeeping: nothing waits or runs here.

    Attributes:
        num_waiting: requests that no replica has.
        num_steals: how often a replica took from another.
        num_stolen: requests that changed their replica so.
    """

    def __init__(
        self,
        sequence: IntArray,
        part: IntArray,
        *,
        unit: IntArray,
        work_s: FloatArray,
        num_replicas: int,
        rates: Sequence[float] | None = None,
    ) -> None:
        """Make a queue.

        Args:
            sequence: (k,) int64, rows in planned order; all requests, or those that still have to run.
            part: (n,) int64, the replica of each row.
            unit: (n,) int64, unit of each row.
            work_s: (n,) float64, expected seconds of each row.
            rates: speed of each replica, above 0; None for equal ones.
        """
        self._unit, self._work = unit, work_s
        self._rank = np.empty(len(part), np.int64)
        self._rank[sequence] = np.arange(len(sequence))
        # Kept backwards, so that the next one is popped from the end.
        by_part = sequence[np.argsort(part[sequence], kind="stable")]
        sizes = np.bincount(part[sequence], minlength=num_replicas)
        rows = np.split(by_part, np.cumsum(sizes)[:-1])
        self._rows: list[list[int]] = [piece[::-1].tolist() for piece in rows]
        self._left = [float(work_s[piece].sum()) for piece in rows]
        self._rates = [1.0] * num_replicas if rates is None else list(rates)
        self.num_waiting = len(sequence)
        self.num_steals = self.num_stolen = 0

    @property
    def num_replicas(self) -> int:
        """How many there are parts for."""
        return len(self._rows)

    def left_s(self, replica: int) -> float:
        """Expected seconds of what waits in a replica's part, by its own speed."""
        return max(self._left[replica], 0.0) / self._rates[replica]

    def take(self, replica: int) -> int | None:
        """The next request for a replica; None when nothing waits anywhere."""
        row = self.take_own(replica)
        if row is None and self.num_waiting:
            self._steal(replica)
            return self.take_own(replica)
        return row

    def take_own(self, replica: int) -> int | None:
        """The next request of a replica's own part; None when nothing waits there."""
        if not self._rows[replica]:
            return None
        row = self._rows[replica].pop()
        self._left[replica] -= float(self._work[row])
        self.num_waiting -= 1
        return row

    def give_back(self, replica: int, rows: Iterable[int]) -> None:
        """Queue requests again that a replica had and did not finish; they come first, in planned order."""
        returned = sorted(rows, key=self._rank.__getitem__, reverse=True)
        self._rows[replica] += returned
        self.num_waiting += len(returned)
        self._left[replica] += float(self._work[returned].sum())

    def _steal(self, thief: int) -> None:
        """Take from the part with most time left; there is one."""
        owner = max(range(len(self._rows)), key=lambda other: (self.left_s(other), len(self._rows[other])))
        if not self._rows[owner]:  # what waits costs nothing by the plan, but it waits
            owner = next(other for other, rows in enumerate(self._rows) if rows)
        owned = self._rows[owner]
        rows = np.array(owned, np.int64)
        fair = self._rates[thief] / (self._rates[thief] + self._rates[owner])
        taken = _far_units(self._unit[rows], self._work[rows], fair)
        self._rows[thief] = rows[taken].tolist()
        self._rows[owner] = rows[~taken].tolist()
        moved = float(self._work[rows[taken]].sum())
        self._left[thief], self._left[owner] = moved, self._left[owner] - moved
        self.num_steals += 1
        self.num_stolen += int(taken.sum())


def _far_units(unit: IntArray, work: FloatArray, share: float) -> NDArray[np.bool_]:
    """Which of the rows to take: whole units from the beginning, with about this share of the work.

    Args:
        unit, work: (k,) of rows, the far end first.
    """
    distinct, first, of_row = np.unique(unit, return_index=True, return_inverse=True)
    if len(distinct) == 1:
        upto = np.cumsum(work)
        taken: NDArray[np.bool_] = upto - work / 2 <= share * upto[-1]
        taken[0] = True
        return taken
    # Units by where their last request stands, and the work up to and with each of them.
    by_end = np.argsort(first, kind="stable")
    upto = np.cumsum(np.bincount(of_row, work)[by_end])
    goal = share * upto[-1]
    # At least one, never all, and no more than half of a unit beyond the share.
    over = np.diff(upto, prepend=0.0) / 2
    num = int(np.clip(np.searchsorted(upto - over, goal, side="right"), 1, len(distinct) - 1))
    chosen = np.zeros(len(distinct), np.bool_)
    chosen[by_end[:num]] = True
    taken = chosen[of_row]
    return taken
