"""The scheduler of `scheduling` in the modelled engine: the same code that decides inside SGLang.

What SGLang's own `PrefillAdder` checks beside it, that the next step is possible, is checked here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.scheduling.admission import PrefillPass, Verdict
from sglang_blend.scheduling.arrivals import Arrival
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from sglang_blend.scheduling.host import Match, WindowPool
from sglang_blend.scheduling.request_state import RequestState
from sglang_blend.scheduling.scheduler import Scheduler
from sglang_blend.scheduling.switches import SchedulerOptions
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.rules import Source
from sglang_blend.simulate.simulated_job import RequestLists


class PlannedHint(Protocol):
    """What each request carries to the scheduler."""

    def of(self, row: int) -> Hints:
        """Of one request."""


class Progress(Protocol):
    """How far the requests of an engine have come."""

    def count_generated(self, requests: Iterable[int]) -> list[int]:
        """Output tokens so far of each."""


class _Row(NamedTuple):
    """The handle of a request: its row of the job."""

    row: int


class _Rest(NamedTuple):
    """The uncached part of a prompt."""

    row: int
    start: int


class SimulatedHost:
    """See `scheduling.host.Host`; the pool and the requests of one engine."""

    page_size = 1
    caches_prefixes = True
    tells_when_cached = True

    def __init__(self, pool: KvPool, requests: RequestLists, progress: Progress) -> None:
        self.mem_tokens = pool.capacity
        self._pool = pool
        self._prompt_len = requests.prompt_len
        self._progress = progress

    def count_generated(self, states: Sequence[RequestState]) -> list[int]:
        """See `Host`."""
        return self._progress.count_generated(state.handle.row for state in states)

    def match(self, state: RequestState) -> Match:
        """See `Host`."""
        row = state.handle.row
        node, found = self._pool.place(row)
        total = self._prompt_len[row] + state.num_generated
        found = min(found, total - 1)  # the last token is always computed
        place = (node, found, self._pool.goes_on(row, node, found))
        return Match(found, total - found, total - found - 1, place, _Rest(row, found))

    def common_len(self, a: _Rest, b: _Rest) -> int:
        """See `Host`."""
        return self._pool.common_len(a.row, b.row) - a.start

    def unlocked_prefix(self, state: RequestState) -> list[tuple[int, int]]:
        """See `Host`."""
        return self._pool.unlocked_prefix(state.handle.row)

    def held_tokens(self) -> float:
        """See `Host`; an admitted prompt has all its memory at once here."""
        return self.mem_tokens - self._pool.available

    def window_pool(self) -> WindowPool | None:
        """See `Host`; not modelled."""
        return None

    def expect(self, state: RequestState) -> None:
        """See `Host`."""
        self._pool.expect(state.handle.row, state.key[2])

    def forget(self, rid: str) -> None:
        """See `Host`."""
        self._pool.forget(int(rid))

    def num_expected(self) -> int:
        """See `Host`."""
        return self._pool.num_expected

    def forget_all(self) -> None:
        """See `Host`; it knows requests by their rows, which nobody forgets."""


class PlannedRules:
    """See `simulate.rules.Rules`: our scheduler executes a plan.

    Attributes:
        scheduler: who decides.
    """

    def __init__(
        self,
        pool: KvPool,
        source: Source,
        requests: RequestLists,
        hints: PlannedHint,
        cost: RooflineCost,
        progress: Progress,
        *,
        paced: bool,
    ) -> None:
        self.is_full = False
        host = SimulatedHost(pool, requests, progress)
        self.scheduler = Scheduler("dual-scan", host, cost, SchedulerOptions(paced_budget=paced))
        self._host, self._pool, self._source, self._hints = host, pool, source, hints
        self._requests = requests
        self._arrivals: dict[int, Arrival] = {}
        self._retracted: list[int] = []
        self._head: list[RequestState] = []
        self._at = 0
        self._pass: PrefillPass | None = None
        self._num_started = 0

    @property
    def has_waiting(self) -> bool:
        """See `Rules`."""
        self._take_in()
        return self.scheduler.num_waiting > 0

    def begin_pass(self, *, num_decoding: int, chunk_tokens: int) -> int:
        """See `Rules`."""
        self._take_in()
        self.scheduler.check_when_idle()
        if (head := self.scheduler.next_candidates()) is not None:
            self._head = head
        self._at = self._num_started = 0
        self._pass = self.scheduler.begin_pass(num_decoding=num_decoding, chunk_tokens=chunk_tokens)
        assert self._pass.prefill_tokens is not None, "there is a chunk"
        return self._pass.prefill_tokens

    def next_admitted(self) -> int | None:
        """See `Rules`."""
        assert self._pass is not None, "begin_pass comes first"
        while self._at < len(self._head):
            state = self._head[self._at]
            self._at += 1
            verdict = self._pass.ask(state)
            if verdict is Verdict.SKIP:
                continue
            self.is_full = verdict is Verdict.FULL or (verdict is Verdict.ADMIT and not self._has_room(state))
            if verdict is not Verdict.ADMIT or self.is_full:
                return None
            self._pass.admitted(state)
            self._num_started += 1
            return int(state.handle.row)
        return None

    def computed(self, request: int) -> None:
        """See `Rules`."""
        self.scheduler.cached(str(request))

    def finish(self, request: int, output_len: int) -> None:
        """See `Rules`."""
        self.scheduler.finish(str(request), output_len)
        del self._arrivals[request]
        self._source.done(request)

    def retracting(self, request: int) -> None:
        """See `Rules`."""
        self.scheduler.retracting(str(request))
        self._retracted.append(request)

    def on_decode(self, num_steps: int) -> None:
        """See `Rules`; nothing depends on it."""

    def on_retracted(self, generated: int, caps: int, num_running: int) -> None:
        """See `Rules`; nothing depends on it."""

    def split_work(self) -> SplitWork | None:
        """See `Rules`."""
        return self.scheduler.split_work()

    def _take_in(self) -> None:
        """Those that were retracted stand in the queue again, and others come."""
        scheduler = self.scheduler
        for request in self._retracted:
            scheduler.arrive(self._arrivals[request])
        self._retracted.clear()
        for row in self._source.take(len(scheduler.running), scheduler.num_waiting):
            self._arrivals[row] = self._arrival(row)
            scheduler.arrive(self._arrivals[row])

    def _arrival(self, row: int) -> Arrival:
        return Arrival(
            rid=str(row),
            handle=_Row(row),
            prompt_len=self._requests.prompt_len[row],
            max_new_tokens=self._requests.cap[row],
            custom_params={HINTS_KEY: self._hints.of(row).to_json()},
        )

    def _has_room(self, state: RequestState) -> bool:
        """SGLang's own question, with a token reserved for each that runs (`srt.prefill_adder`)."""
        if not len(self.scheduler.running):
            return True
        match = self._host.match(state)
        relocked = sum(tokens for _, tokens in self._pool.unlocked_prefix(state.handle.row))
        reserved = len(self.scheduler.running) + self._num_started
        return match.extend_len + 2 < self._pool.available - relocked - reserved
