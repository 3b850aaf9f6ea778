"""The prompts that a simulated engine is computing, in line, and those that wait for another one's prefix.

What a request does whose prefix is in flight is `EngineConfig.new_prefixes`.
"""

from __future__ import annotations

from collections import deque

from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.simulate.engine_config import NewPrefixes
from sglang_blend.simulate.kv_pool import KvPool


class Prefill:
    """An admitted request whose prompt is being computed: tokens done (or cached) and to go.

    Attributes:
        waits_for: a segment that another request computes, and this one reads; 0 when there is none.
    """

    __slots__ = ("done", "left", "request", "waits_for")

    def __init__(self, request: int, done: int, left: int, waits_for: int) -> None:
        self.request = request
        self.done = done
        self.left = left
        self.waits_for = waits_for


class PrefillQueue:
    """First come, first computed; who waited for a prefix comes first once it is there."""

    def __init__(self, pool: KvPool, new_prefixes: NewPrefixes) -> None:
        self._pool = pool
        self._new_prefixes = new_prefixes
        self._in_line: deque[Prefill] = deque()
        self._late: list[Prefill] = []
        self._copied: dict[int, int] = {}  # by request: tokens that it computes beside another one

    def __bool__(self) -> bool:
        return bool(self._in_line or self._late)

    @property
    def has_head(self) -> bool:
        """Whether a prompt can be computed now."""
        return bool(self._in_line)

    @property
    def head(self) -> Prefill:
        """The prompt to go on with."""
        return self._in_line[0]

    def in_flight(self, request: int) -> tuple[int, int]:
        """What a request would compute though others are computing it, tokens, and the segment that it would
        wait for instead, 0 when there is none.
        """
        if self._new_prefixes == "known":
            return 0, 0
        tokens, segment = self._pool.in_flight(request)
        if self._new_prefixes == "recompute" or tokens < LEAST_SHARED_LEN:
            return tokens, 0
        return 0, segment

    def add(self, job: Prefill, copied: int) -> None:
        """A request was admitted that computes so many tokens beside another one."""
        if copied:
            self._copied[job.request] = copied
        (self._late if job.waits_for else self._in_line).append(job)

    def begin_pass(self) -> None:
        """Those whose prefix is there by now come first."""
        started = [job for job in self._late if not self._pool.is_in_flight(job.waits_for)]
        if started:
            self._late = [job for job in self._late if self._pool.is_in_flight(job.waits_for)]
            self._in_line.extendleft(reversed(started))

    def advance(self, num_tokens: int) -> list[int]:
        """Computes tokens of the head; the request, once its prompt is complete."""
        job = self._in_line[0]
        job.done += num_tokens
        job.left -= num_tokens
        if job.left:
            return []
        self._in_line.popleft()
        return [job.request]

    def complete(self, request: int) -> None:
        """The step that completed a prompt is over: others can read it, and a copy is dropped."""
        self._pool.computed(request)
        self._pool.drop_copy(self._copied.pop(request, 0))
