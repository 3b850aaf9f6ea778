"""One request as the scheduler sees it, and those that wait, each side in planned order.

`WaitingRequests` is told who came and who left; reading ahead is free and removing near the head is cheap,
however many wait.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sglang_blend.core.request import Side
from sglang_blend.scheduling.lengths import ExpectedOutput
from sglang_blend.scheduling.peak import with_margin

# (0 without hints, else 1; pool of the online plan; rank; arrival): a total order.
Key = tuple[int, int, float, int]

# Moving a request costs as much as sorting about so many: what stands behind it in a list is copied.
_FEW_RATIO = 1 / 64


class Work(NamedTuple):
    """What requests have still to do: prompt tokens that nobody shares, output tokens, KV tokens to read."""

    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    token_steps: float = 0.0

    def plus(self, other: Work, sign: int = 1) -> Work:
        """Both together; with -1 this without the other."""
        return Work(
            self.prompt_tokens + sign * other.prompt_tokens,
            self.output_tokens + sign * other.output_tokens,
            self.token_steps + sign * other.token_steps,
        )


_NO_WORK = Work()


@dataclass(slots=True, eq=False)
class RequestState:
    """What the scheduler knows of one request, from its arrival to its end.

    Attributes:
        rid: its id.
        handle: what the host knows it by; nothing here looks into it.
        key: place in the planned order.
        side: which scanner placed it; the account it counts on may change (see `account_side`).
        prompt_len: tokens.
        max_new_tokens: cap on the output, tokens.
        expected: what is known of its output length.
        planned_len: output tokens that the densities were counted with.
        density, root_density: of its unit, and of it and what comes later in the plan.
        shared_len: tokens of its prompt that another request begins with too, as planned.
        num_generated: output tokens so far, when the host was last asked.
        extend_len: prompt tokens that its prefill computes; set when it is admitted.
        own_len: prompt tokens that only it holds, as far as the plan knows; set when it is admitted.
        accounted: tokens that it counts with on its side; set while it runs.
        num_waits: passes that it waited for another one's prefix, since it last found more of it cached.
        matched_len: tokens that were cached then.
    """

    rid: str
    handle: Any
    key: Key
    side: Side
    prompt_len: int
    max_new_tokens: int
    expected: ExpectedOutput
    planned_len: float
    density: float
    root_density: float
    shared_len: int = 0
    num_generated: int = 0
    extend_len: int = 0
    own_len: int = 0
    accounted: float = 0.0
    num_waits: int = 0
    matched_len: int = 0
    _mean_len: float = 0.0
    _mean_version: int = -1
    _end_len: float = 0.0
    _end_version: int = -1
    _counted: Work = _NO_WORK

    @property
    def work(self) -> Work:
        """What it has to do from its beginning, by what is expected now."""
        mean = self.mean_len
        return Work(max(self.prompt_len - self.shared_len, 1), mean, mean * (self.prompt_len + mean / 2))

    @property
    def mean_len(self) -> float:
        """Its whole output as expected now, tokens."""
        if self._mean_version != self.expected.version:
            self._mean_len = self.expected.mean(self.max_new_tokens)
            self._mean_version = self.expected.version
        return self._mean_len

    def may_wait(self, matched_len: int, most: int) -> bool:
        """Whether it waits once more for a prefix; not for ever where the cache gains nothing by it."""
        if matched_len > self.matched_len:
            self.matched_len, self.num_waits = matched_len, 0
        self.num_waits += 1
        return self.num_waits <= most

    @property
    def account(self) -> Side:
        """The side whose memory it counts on; requests without a side count on the left one."""
        return Side.RIGHT if self.side == Side.RIGHT else Side.LEFT

    @property
    def peak_tokens(self) -> float:
        """KV tokens it is expected to hold at its end, shared ones included."""
        return self.prompt_len + self.mean_len

    def end_len(self, num_running: int) -> float:
        """Output tokens to reserve memory for in all.

        Kept until the estimate changes or is outrun: what is generated meanwhile just counts down.
        """
        if self._end_version != self.expected.version or self.num_generated >= self._end_len:
            expected = self.expected.remaining(self.num_generated, self.max_new_tokens)
            doubt = self.expected.doubt(self.num_generated)
            self._end_len = self.num_generated + with_margin(expected, num_running, doubt)
            self._end_version = self.expected.version
        return self._end_len


class WaitingRequests:
    """Requests by side, each side sorted by key.

    Attributes:
        work: of all of them, as expected when each came or at the last `count_again`.
    """

    def __init__(self) -> None:
        self.work = Work()
        self._by_rid: dict[str, RequestState] = {}
        self._line: dict[Side, list[tuple[Key, RequestState]]] = {Side.LEFT: [], Side.RIGHT: []}

    def __len__(self) -> int:
        return len(self._by_rid)

    def __contains__(self, rid: object) -> bool:
        return rid in self._by_rid

    def __iter__(self) -> Iterator[RequestState]:
        return iter(self._by_rid.values())

    def get(self, rid: str) -> RequestState | None:
        """The waiting request of this id."""
        return self._by_rid.get(rid)

    def add(self, waiting: RequestState) -> None:
        """A request has come; its key is new."""
        self._by_rid[waiting.rid] = waiting
        self._enter_line(waiting)
        waiting._counted = waiting.work
        self.work = self.work.plus(waiting._counted)

    def remove(self, rid: str) -> RequestState:
        """A request has left: admitted or aborted."""
        waiting = self._by_rid.pop(rid)
        self._leave_line(waiting)
        self.work = self.work.plus(waiting._counted, -1) if self._by_rid else Work()
        return waiting

    def count_again(self) -> None:
        """What is expected of them has changed."""
        self.work = Work()
        for waiting in self:
            waiting._counted = waiting.work
            self.work = self.work.plus(waiting._counted)

    def move(self, places: Mapping[str, tuple[Key, Side]]) -> None:
        """Give requests other places: one after the other if they are few, else all lines are made again."""
        if are_few := len(places) < _FEW_RATIO * len(self):
            for rid in places:
                self._leave_line(self._by_rid[rid])
        for rid, (key, side) in places.items():
            self._by_rid[rid].key, self._by_rid[rid].side = key, side
        if are_few:
            for rid in places:
                self._enter_line(self._by_rid[rid])
            return
        self._line = {Side.LEFT: [], Side.RIGHT: []}
        for waiting in self:
            self._line_of(waiting).append((waiting.key, waiting))
        for line in self._line.values():
            line.sort()

    def ahead(self, side: Side, position: int) -> RequestState | None:
        """The request at this position of a side, 0 first; None beyond its end."""
        line = self._line[side]
        return line[position][1] if position < len(line) else None

    def heads(self) -> list[RequestState]:
        """The next request of each side that is not exhausted, left first."""
        return [line[0][1] for line in self._line.values() if line]

    def first(self) -> RequestState | None:
        """The request that is next in the plan, of both sides."""
        return min(self.heads(), key=lambda head: head.key, default=None)

    def _enter_line(self, waiting: RequestState) -> None:
        insort(self._line_of(waiting), (waiting.key, waiting))

    def _leave_line(self, waiting: RequestState) -> None:
        line = self._line_of(waiting)
        at = bisect_left(line, (waiting.key,))
        assert line[at][1] is waiting, f"{waiting.rid} is not where its key {waiting.key} says"
        del line[at]

    def _line_of(self, waiting: RequestState) -> list[tuple[Key, RequestState]]:
        return self._line[waiting.account]
