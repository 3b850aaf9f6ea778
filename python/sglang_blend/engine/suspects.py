"""Finds the request that kills the engine, without punishing the others that were in flight.

    death               whoever was in flight is a suspect: they run alone, the root of their number at a time
    death of a group    these run one by one
    death of one        it is guilty if it was in flight at an earlier death too, else it has one more chance

So three deaths find one among any number: of 4,096 it is in one of 64 groups of 64, then one of 64.

An engine that was killed from outside (SIGKILL, and nothing says that it was its own fault) tells less:
whoever is in flight is there by chance. Six such deaths suspect, and of those that run alone, six convict,
one after another.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence

OWN_DEATH, DEATH_FROM_OUTSIDE = 6, 1
SUSPECT_AT, GUILTY_AT = 6, 6


class Suspects:
    """Says which requests may run, and whom a death accuses. Requests are any hashable names."""

    def __init__(self) -> None:
        # Weights of the deaths at which a request was in flight, and of those at which it was alone.
        self._blame: Counter[Hashable] = Counter()
        self._blame_alone: Counter[Hashable] = Counter()
        # Suspects that run with nobody else; the first group is running.
        self._groups: deque[list[Hashable]] = deque()

    def may_run(self, request: Hashable) -> bool:
        """Whether it is this request's turn."""
        return not self._groups or request in self._groups[0]

    def finished(self, request: Hashable) -> bool:
        """A request got its answer, or is given up; returns whether others may run now that could not."""
        self._blame.pop(request, None)
        self._blame_alone.pop(request, None)
        for group in self._groups:
            if request in group:
                group.remove(request)
        before = len(self._groups)
        while self._groups and not self._groups[0]:
            self._groups.popleft()
        return len(self._groups) != before

    def died(self, in_flight: Iterable[Hashable], *, from_outside: bool = False) -> Hashable | None:
        """The engine died; returns the guilty request, if there is one.

        Args:
            in_flight: the requests it was at, those that will run again.
            from_outside: it was killed, and nothing says that it was its own fault.
        """
        requests = list(in_flight)
        if not requests:
            return None
        weight = DEATH_FROM_OUTSIDE if from_outside else OWN_DEATH
        if len(requests) == 1:
            (lonely,) = requests
            was_suspect = self._blame[lonely] >= SUSPECT_AT
            self._blame_alone[lonely] += weight
            if was_suspect and self._blame_alone[lonely] >= GUILTY_AT:
                self.finished(lonely)
                return lonely
        self._blame.update(dict.fromkeys(requests, weight))
        if self._groups:
            self._split_first(requests, from_outside=from_outside)
        else:
            suspects = [request for request in requests if self._blame[request] >= SUSPECT_AT]
            self._groups.extend(_groups(suspects, max(math.isqrt(len(suspects)), 1)))
        return None

    def _split_first(self, requests: list[Hashable], *, from_outside: bool) -> None:
        not_begun = [request for request in self._groups.popleft() if request not in requests]
        if not_begun:
            self._groups.append(not_begun)
        if len(requests) == 1 and from_outside:
            self._groups.append(requests)  # the next kill is not to meet it again
        else:
            self._groups.extendleft(reversed(_groups(requests, 1)))


def _groups(requests: Sequence[Hashable], size: int) -> list[list[Hashable]]:
    return [list(requests[i : i + size]) for i in range(0, len(requests), size)]
