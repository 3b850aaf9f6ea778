"""Which request a replica runs next: its own part in planned order, then what it takes from others.

    queue = WorkQueue(sequence, part, unit=schedule.unit, work_s=work_s, num_replicas=2)
    row = queue.take(replica)            # None: nothing waits that it should run
    queue.done(replica, row)             # it has finished
    queue.give_back(replica, rows)       # the replica died at them

An idle replica takes from the far end of the part that has most time left, whole units (subtrees that the
plan keeps together), until both have as much to do, what they run included; the owner goes on at the near
end. A replica that still runs something takes only from one that has twice as much to do: what waits at the
end would be started soon where it is, and makes a full batch slower elsewhere (docs/cluster.md).
Where one unit is all that is left it is divided, so that the last minutes never wait for one replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray

# How much more than here must be to do where something is taken from.
_LEAST_FACTOR = 2.0


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
        self._held = [0.0] * num_replicas  # expected seconds of what each runs
        self._num_held = [0] * num_replicas
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

    def _to_do(self, replica: int) -> float:
        """Expected seconds, at speed 1, of what waits in a part and of what its replica runs."""
        return max(self._left[replica], 0.0) + max(self._held[replica], 0.0)

    def take(self, replica: int) -> int | None:
        """The next request for a replica.

        None when nothing waits anywhere, or only where little more is to do than here; a replica that holds
        nothing always gets what waits.
        """
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
        self._held[replica] += float(self._work[row])
        self._num_held[replica] += 1
        self.num_waiting -= 1
        return row

    def done(self, replica: int, row: int) -> None:
        """A request that a replica had has finished."""
        self._held[replica] -= float(self._work[row])
        self._num_held[replica] -= 1

    def give_back(self, replica: int, rows: Iterable[int], holder: int | None = None) -> None:
        """Queue requests again that a replica had and did not finish; they come first, in planned order.

        Args:
            replica: whose part they are to be.
            holder: who had them; None for the same.
        """
        holder = replica if holder is None else holder
        returned = sorted(rows, key=self._rank.__getitem__, reverse=True)
        self._rows[replica] += returned
        self.num_waiting += len(returned)
        work = float(self._work[returned].sum())
        self._left[replica] += work
        self._held[holder] -= work
        self._num_held[holder] -= len(returned)

    def _steal(self, thief: int) -> None:
        """Take from the part with most to do, if it is much more than here; some part has requests."""
        with_rows = [other for other, rows in enumerate(self._rows) if rows]
        owner = max(with_rows, key=lambda other: (self._to_do(other) / self._rates[other], -other))
        left, rate, owners_rate = self._left[owner], self._rates[thief], self._rates[owner]
        here_s, there_s = self._to_do(thief) / rate, self._to_do(owner) / owners_rate
        both_run = self._num_held[thief] and self._num_held[owner]  # not where the owner is lost
        if both_run and there_s < _LEAST_FACTOR * here_s:
            return
        surplus = (there_s - here_s) * rate * owners_rate / (rate + owners_rate)
        share = min(surplus / left, 1.0) if surplus > 0.0 and left > 0.0 else 0.5
        rows = np.array(self._rows[owner], np.int64)
        taken = _far_units(self._unit[rows], self._work[rows], share)
        self._rows[thief] = rows[taken].tolist()
        self._rows[owner] = rows[~taken].tolist()
        moved = float(self._work[rows[taken]].sum())
        self._left[thief], self._left[owner] = moved, left - moved
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
