"""Finds the request that kills the engine, without punishing the others that were in flight.

    first death            all requests in flight run again, as before
    second death           those that were in flight both times are suspects: they run alone, a few at a time
    death of a few         these run one by one
    death of one           it has one more chance; the second time it is guilty

To be the only one common to two deaths counts like a death alone.

An engine that was killed from outside (SIGKILL, and no word of its own) tells less: then whoever is in flight
is there by chance. But it may also be the kernel that killed it for the memory that a request took, so such a
death counts a third: six of them suspect, and of those that run alone, six convict, one after the other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable

GROUP_SIZE = 8
OWN_DEATH, DEATH_FROM_OUTSIDE = 3, 1
SUSPECT_AT = GUILTY_AT = 2 * OWN_DEATH


class Suspects:
    """Says which requests may run, and whom a death accuses. Requests are any hashable names."""

    def __init__(self) -> None:
        # Weights of the deaths at which a request was in flight, and of those at which only it can be guilty.
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
        weight = DEATH_FROM_OUTSIDE if from_outside else OWN_DEATH
        self._blame.update(dict.fromkeys(requests, weight))
        suspects = [request for request in requests if self._blame[request] >= SUSPECT_AT]
        if len(requests) == 1 or len(suspects) == 1:
            (lonely,) = suspects or requests
            self._blame_alone[lonely] += weight
            if self._blame_alone[lonely] >= GUILTY_AT:
                self.finished(lonely)
                return lonely
        if not self._groups:
            self._groups.extend(suspects[i : i + GROUP_SIZE] for i in range(0, len(suspects), GROUP_SIZE))
        elif requests:
            not_begun = [request for request in self._groups.popleft() if request not in requests]
            if not_begun:
                self._groups.append(not_begun)
            if len(requests) == 1 and from_outside:
                self._groups.append(requests)  # the next kill is not to meet it again
            else:
                self._groups.extendleft([request] for request in reversed(requests))
        return None
