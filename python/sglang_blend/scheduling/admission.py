"""One prefill pass: candidates of the plan, one leader per new prefix, memory by expected peak.

The host keeps the budgets of the step and allocates; before it looks at a request it asks `ask`: is it the
plan's turn, is its prefix being computed by another (then it waits a pass, with its memory kept for it), and
will the memory suffice until the running requests end as expected. Where it will not, the other side has its
turn, and a few requests that come later in the plan may use the room until then, if they are expected to end
before half of the running ones do (EASY backfilling).

Source: BlendServe, arXiv:2411.16102, section 5.3, asks for admission by memory; peak, leader and backfilling
are ours.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from enum import Enum
from typing import Any, Protocol

from sglang_blend.core.request import Side
from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.scheduling.host import Host, Match
from sglang_blend.scheduling.in_flight import InFlightPrefixes
from sglang_blend.scheduling.peak import ExpectedPeak, WindowPeak
from sglang_blend.scheduling.request_state import RequestState
from sglang_blend.scheduling.running import RunningRequests
from sglang_blend.scheduling.switches import Counters, SchedulerOptions

# Requests that may ask for room after one found none; each asks the cache, some tens of microseconds.
_BACKFILL_TRIES = 8
# Passes that a request waits for a prefix in a cache that may not hold it afterwards: with state-space layers
# SGLang keeps the states at few places, and those where two prompts part only from the second of them on.
_MOST_WAITS = 2


class Verdict(Enum):
    """On one request that asked to be admitted."""

    ADMIT = "it may start, if the budgets of the step allow it"
    SKIP = "not in this pass; others may ask"
    STOP = "nobody else in this pass"
    FULL = "nobody else until something finishes"


class Owner(Protocol):
    """What a pass asks of the scheduler that it belongs to; see `scheduling.scheduler.Scheduler`."""

    host: Host
    options: SchedulerOptions
    counters: Counters
    running: RunningRequests
    in_flight: InFlightPrefixes[Any]
    finds_leaders: bool
    is_stuck: bool

    def is_candidate(self, state: RequestState) -> bool:
        """Whether it is the plan's turn."""

    def heads(self) -> list[RequestState]:
        """The next request of each side that is not exhausted."""

    def admit(self, state: RequestState, match: Match) -> None:
        """A request was admitted."""


class PrefillPass:
    """The requests that one pass admits.

    Attributes:
        prefill_tokens: prompt tokens that the pass may compute; None is without limit.
        num_asked: requests that were looked at.
    """

    def __init__(self, scheduler: Owner, *, num_decoding: int, prefill_tokens: int | None) -> None:
        """Start a pass; use `Scheduler.begin_pass`.

        Args:
            num_decoding: requests that decode in the same step (mixed chunk), else 0.
        """
        self._scheduler = scheduler
        self._host = scheduler.host
        self._num_decoding = num_decoding
        self.prefill_tokens = prefill_tokens
        self.num_asked = 0
        self._num_admitted = 0
        self._num_reserved = 0
        self._num_refused = 0
        self._blocked: set[Side] = set()
        self._peak: ExpectedPeak | None = None
        self._window_peak: WindowPeak | None = None
        self._kept_nodes: Collection[int] = ()
        self._match: Match | None = None
        # What the present request asks of the memory: own tokens, tokens to come, tokens newly locked.
        self._asked: tuple[int, float, int] = (0, 0.0, 0)

    def ask(self, state: RequestState) -> Verdict:
        """Whether a waiting request may start; where nothing runs, whoever asks may."""
        scheduler = self._scheduler
        is_idle = not len(scheduler.running)
        self.num_asked += 1
        if scheduler.is_stuck:
            return Verdict.FULL
        if not scheduler.is_candidate(state) and not is_idle:
            return Verdict.STOP
        self._match = match = self._host.match(state)
        in_flight_len = self._in_flight_len(state, match)
        num_new = match.extend_len - in_flight_len
        until_end = self._to_come(state) + self._num_more_passes(num_new)
        self._asked = (num_new, until_end, self._newly_locked_len(state))
        if scheduler.options.peak_admission and not is_idle and not self._has_room(state):
            self._num_refused += 1
            if self._num_refused <= _BACKFILL_TRIES:
                return Verdict.SKIP
            # Whoever waits for a prefix goes in the next pass, without anything having finished.
            return Verdict.STOP if self._num_reserved else Verdict.FULL
        if in_flight_len:
            self._count_asked()
            self._num_reserved += 1
            scheduler.counters.skipped += 1
            return Verdict.SKIP
        return Verdict.ADMIT

    def admitted(self, state: RequestState) -> None:
        """The request that was asked about last has started."""
        assert self._match is not None, f"{state.rid} was not asked about"
        self._count_asked()
        self._num_admitted += 1
        self._scheduler.admit(state, self._match)

    @property
    def found_no_room(self) -> bool:
        """Nobody could be admitted, and nobody will before something finishes."""
        return self._num_refused > 0 and not self._num_admitted and not self._num_reserved

    def _in_flight_len(self, state: RequestState, match: Match) -> int:
        """Tokens of it that a leader is computing and that it waits for."""
        scheduler = self._scheduler
        if not scheduler.finds_leaders:
            return 0
        shared_len = scheduler.in_flight.shared_len(match.place, match.rest, match.usable_len)
        if shared_len and not self._host.tells_when_cached:
            return shared_len if state.may_wait(match.cached_len, _MOST_WAITS) else 0
        return shared_len

    def _to_come(self, state: RequestState) -> float:
        """Output tokens to reserve for it."""
        return state.end_len(self._expected_peak().num_requests + 1) - state.num_generated

    def _num_more_passes(self, num_new: int) -> int:
        """Steps, beyond one, that such a prompt is computed in while others decode."""
        if not self._num_decoding or self.prefill_tokens is None:
            return 0
        return max(math.ceil(num_new / max(self.prefill_tokens, 1)) - 1, 0)

    def _has_room(self, state: RequestState) -> bool:
        side, peak = state.account, self._expected_peak()
        if side in self._blocked and not self._may_backfill(state):
            return False
        context, remaining, _ = self._asked
        if peak.fits(*self._asked) and (
            self._window_peak is None or self._window_peak.fits(context, remaining)
        ):
            return True
        self._blocked.add(side)
        return False

    def _may_backfill(self, state: RequestState) -> bool:
        """Short, and without a new prefix that others would need before it is evicted again."""
        assert self._match is not None
        opens_prefix = self._match.cached_len + LEAST_SHARED_LEN < state.shared_len
        return not opens_prefix and self._asked[1] <= self._expected_peak().median_remaining

    def _count_asked(self) -> None:
        context, remaining, _ = self._asked
        self._expected_peak().add(*self._asked)
        if self._window_peak is not None:
            self._window_peak.add(context, remaining)

    def _newly_locked_len(self, state: RequestState) -> int:
        self._expected_peak()
        return sum(size for node, size in self._host.unlocked_prefix(state) if node not in self._kept_nodes)

    def _expected_peak(self) -> ExpectedPeak:
        """Made when the first candidate asks: the running requests as they are now."""
        if self._peak is None:
            host = self._host
            context, remaining = self._scheduler.running.held_and_to_come()
            shared = max(host.held_tokens() - context.sum(), 0)
            # The prefixes that both sides go on with stay, though nobody may be holding them just now.
            kept = dict(node for head in self._scheduler.heads() for node in host.unlocked_prefix(head))
            self._kept_nodes = kept.keys()
            # Mixed batches decode without SGLang's check that memory suffices: keep their tokens free.
            self._peak = ExpectedPeak(
                host.mem_tokens - self._num_decoding, shared + sum(kept.values()), context, remaining
            )
            if (pool := host.window_pool()) is not None:
                self._window_peak = WindowPeak(
                    pool_tokens=pool.pool_tokens - self._num_decoding,
                    used_tokens=pool.used_tokens,
                    most_tokens=pool.most_tokens,
                    context_len=context,
                    remaining_len=remaining,
                )
        return self._peak
