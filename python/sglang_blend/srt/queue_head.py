"""SGLang's waiting queue: who came, who left, and the head of it in another order.

SGLang takes requests from the front, drops the admitted ones and appends arrivals, so an index stays true
apart from the number dropped before it. `bring` swaps each wanted request with whoever stands in its place,
so a queue of thousands is not rewritten; the order of all others is nobody's business, as the plan is kept
elsewhere. Where an index turns out to be wrong (SGLang removes an aborted request from the middle) all are
noted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class QueueHead:
    """Indices of the queued requests by rid; requests are anything with a `rid`."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}  # plus the number dropped when it was noted
        self._num_dropped = 0
        self._front = 0
        self._num_arrived = self._num_admitted = 0  # since the last `bring`

    def arrivals(self, queue: Sequence[Any], is_known: Callable[[Any], bool]) -> list[Any]:
        """Requests that were appended since the last call, in order."""
        arrivals = []
        for req in reversed(queue):
            if is_known(req):
                break
            arrivals.append(req)
        self._num_arrived += len(arrivals)
        return arrivals[::-1]

    def admitted(self) -> None:
        """A request is taken from the queue after this pass."""
        self._num_admitted += 1

    def bring(self, queue: list[Any], head: Sequence[Any]) -> None:
        """Make `queue` start with `head`, in place."""
        self._catch_up(queue)
        for place, req in enumerate(head):
            at = self._index.get(req.rid, -1) - self._num_dropped
            if not (0 <= at < len(queue) and queue[at] is req):
                self._note_all(queue)
                at = self._index[req.rid]
            if at != place:
                other = queue[place]
                queue[place], queue[at] = req, other
                self._index[other.rid] = at + self._num_dropped
                self._index[req.rid] = place + self._num_dropped
        self._front = len(head)

    def _catch_up(self, queue: Sequence[Any]) -> None:
        self._num_dropped += self._num_admitted
        self._note(queue, range(min(self._front, len(queue))))
        self._note(queue, range(len(queue) - self._num_arrived, len(queue)))
        self._num_arrived = self._num_admitted = 0
        if len(self._index) > 2 * len(queue) + 1024:  # of those who have gone
            self._note_all(queue)

    def _note(self, queue: Sequence[Any], places: range) -> None:
        for place in places:
            self._index[queue[place].rid] = place + self._num_dropped

    def _note_all(self, queue: Sequence[Any]) -> None:
        self._num_dropped = 0
        self._index = {req.rid: place for place, req in enumerate(queue)}
