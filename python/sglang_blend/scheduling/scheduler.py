"""Who runs next: everything a scheduler decides while a job runs, for any host.

    scheduler = Scheduler("dual-scan", host, cost, SchedulerOptions())
    scheduler.arrive(arrival)                   # and `leave`, `finish`, `drop`, `cached`, as things happen
    if (head := scheduler.next_candidates()) is not None:
        ...                                     # the queue's new head, in order
    prefill = scheduler.begin_pass(num_decoding=0, chunk_tokens=8192)
    if prefill.ask(state) is Verdict.ADMIT:
        prefill.admitted(state)

Before each prefill pass `next_candidates` lets what has finished into the estimates and merges the two ends
of the plan by the memory that each side holds. Requests with hints were planned in the parent; others are
planned here, pool by pool.

Nothing here depends on a clock or on hash order, so schedulers that are told the same decide alike.
"""

from __future__ import annotations

import heapq
import logging
from typing import Any

from sglang_blend.core.request import Side
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.scheduling.admission import PrefillPass
from sglang_blend.scheduling.arrivals import Arrival, Arrivals, place_anew
from sglang_blend.scheduling.balance import SideAccounts, SideBalance
from sglang_blend.scheduling.host import Host, Match
from sglang_blend.scheduling.in_flight import InFlightPrefixes
from sglang_blend.scheduling.lengths import LengthClasses
from sglang_blend.scheduling.online_plan import OnlinePlan
from sglang_blend.scheduling.pacing import (
    learnt_density_ratio,
    prefill_tokens,
    remaining_work,
    token_budget,
)
from sglang_blend.scheduling.request_state import Key, RequestState, WaitingRequests
from sglang_blend.scheduling.running import RunningRequests
from sglang_blend.scheduling.switches import Counters, SchedulerOptions

logger = logging.getLogger(__name__)

# Requests put in order at the head of the queue for one pass: twice as many as the last one looked at.
_LEAST_AHEAD, _MOST_AHEAD = 32, 512
# Waiting requests entered into the host's demand in one pass, the next ones in the plan first.
_EXPECTED_PER_PASS = 16


class Scheduler:
    """Keeps who waits and who runs, and decides who is next.

    Attributes:
        host: the engine.
        cost: what work costs there; None where that is not known.
        options, counters: see their classes.
        running: the requests that run.
        in_flight: the prefixes that are being computed.
        accounts: the memory that both sides hold.
        is_stuck: the last pass found no room, and nothing has changed since.
    """

    def __init__(
        self, order: str, host: Host, cost: RooflineCost | None, options: SchedulerOptions | None = None
    ) -> None:
        """Nobody waits and nothing runs.

        Args:
            order: of the plans made here, for requests without hints.
        """
        self.host, self.cost = host, cost
        self.options = options or SchedulerOptions()
        self.counters = Counters()
        self.running = RunningRequests(host.count_generated)
        self.in_flight: InFlightPrefixes[Any] = InFlightPrefixes(host.common_len, host.page_size)
        self.accounts = SideAccounts(cost)
        # Without a cache nobody finds what another one computes.
        self.finds_leaders = self.options.leader_rule and host.caches_prefixes
        self.is_stuck = False
        self._waiting = WaitingRequests()
        self._unexpected: list[tuple[Key, str]] = []  # a heap: who is not yet in the host's demand
        self._candidates: set[str] = set()
        self._lengths = LengthClasses()
        self._density_ratio = 1.0  # of what waits, over what was planned
        self._arrivals = Arrivals(OnlinePlan(order, cost, page_size=host.page_size), self._lengths)
        self._changed = True
        self._last_pass: PrefillPass | None = None
        self._ahead = _MOST_AHEAD

    # ---- what happens

    def arrive(self, arrival: Arrival) -> RequestState:
        """A request stands in the queue that did not before."""
        self._changed = True
        rid = arrival.rid
        if rid in self._waiting:  # an aborted one of the same name
            self.leave(rid)
        before = self.running.get(rid)
        if before is not None and before.handle is not arrival.handle:
            self.drop(rid)
            before = None
        if before is not None:
            state = self._retracted(before)
        else:
            state = self._arrivals.state_of(arrival)
            self.counters.refused_hints = self._arrivals.num_refused
        self._waiting.add(state)
        heapq.heappush(self._unexpected, (state.key, rid))
        return state

    def leave(self, rid: str) -> None:
        """A request waits no longer, and does not run: it was aborted."""
        self._waiting.remove(rid)
        self._arrivals.leave(rid)
        self.host.forget(rid)
        self._changed = True

    def admit(self, state: RequestState, match: Match) -> None:
        """A request was admitted; what the cache has not is being computed. `PrefillPass` tells."""
        self._waiting.remove(state.rid)
        self._arrivals.leave(state.rid)
        self.host.forget(state.rid)
        state.extend_len = max(state.prompt_len - match.cached_len, 0)
        state.own_len = max(state.prompt_len - max(match.cached_len, state.shared_len), 0)
        self.running.add(state)
        self.accounts.enter(state)
        self.counters.admitted += 1
        self._changed = True
        self._lead(state.rid, match)

    def cached(self, rid: str) -> None:
        """What a request has computed is in the cache, or will never be."""
        self.in_flight.drop(rid)

    def chunk_cached(self, rid: str) -> None:
        """A part of its prompt is in the cache; it leads on from there."""
        if (state := self.running.get(rid)) is not None and self.finds_leaders:
            self._lead(rid, self.host.match(state))

    def retracting(self, rid: str) -> None:
        """It gives its memory back and will be among the next ones: what it has computed is evicted last."""
        if (state := self.running.get(rid)) is not None:
            self.host.expect(state)

    def finish(self, rid: str, output_len: int) -> None:
        """A running request has ended by itself, with so many tokens."""
        state = self._stop(rid)
        self.counters.finished += 1
        if output_len < 0.75 * state.mean_len:
            self.counters.early += 1
        elif output_len > 1.25 * state.mean_len:
            self.counters.overrun += 1
        self._lengths.observe(state.expected, output_len)

    def drop(self, rid: str) -> None:
        """It runs no more, and did not end by itself: aborted, or its name is another's now."""
        self._stop(rid)
        self.host.forget(rid)

    def forget_lengths(self) -> None:
        """What was learnt of outputs does not hold for what comes: another job begins."""
        self._lengths.forget()
        self._density_ratio = 1.0

    # ---- what is decided

    def next_candidates(self) -> list[RequestState] | None:
        """Those that may ask in the next pass, in order; None where they are those of the last one."""
        self._plan_next_pool()
        self._estimate_again()
        self._tell_host()
        if (last := self._last_pass) is not None:
            self.is_stuck = last.found_no_room and not self._changed
            self._ahead = min(max(2 * last.num_asked, _LEAST_AHEAD), _MOST_AHEAD)
        if not self.host.tells_when_cached:
            self.in_flight.clear()
        if not self._changed:
            return None
        self._changed = False
        self.counters.relocated += self.accounts.count(self.running)
        head = self._merge_sides()
        self._candidates = {state.rid for state in head}
        return head

    def begin_pass(self, *, num_decoding: int, chunk_tokens: int | None) -> PrefillPass:
        """A prefill pass begins.

        Args:
            num_decoding: requests that decode in the same step (mixed chunk), else 0.
            chunk_tokens: prompt tokens that the step may compute at most; None is without limit.
        """
        if num_decoding and chunk_tokens is not None:
            chunk_tokens = self.prefill_tokens(num_decoding, chunk_tokens)
        self._last_pass = PrefillPass(self, num_decoding=num_decoding, prefill_tokens=chunk_tokens)
        return self._last_pass

    def prefill_tokens(self, num_decoding: int, chunk_tokens: int) -> int:
        """Prompt tokens that a step may compute beside so many decoding requests, up to `chunk_tokens`.

        All of them where the job's density or the machine is not known, or nobody wants a pace.
        """
        density = self._rest_density()
        if not self.options.paced_budget or self.cost is None or density is None:
            return chunk_tokens
        budget = token_budget(
            token_compute_s=self.cost.token_s,
            token_read_s=sum(self.cost.kv_read_s),
            kv_pool_tokens=self.host.mem_tokens,
            root_density=density,
        )
        tokens = min(prefill_tokens(budget, num_decoding, chunk_tokens), chunk_tokens)
        self.counters.paced_passes += tokens < chunk_tokens
        return tokens

    def split_work(self) -> SplitWork | None:
        """What waiting and running requests have still to do; None without a cost model."""
        if self.cost is None:
            return None
        self.running.observe()
        return remaining_work(
            self._waiting.work,
            self.running,
            cost=self.cost,
            mem_tokens=self.host.mem_tokens,
            root_density=self._rest_density() or 0.0,
        )

    def is_candidate(self, state: RequestState) -> bool:
        """Whether it is the plan's turn."""
        return state.rid in self._candidates

    # ---- who is known

    @property
    def num_waiting(self) -> int:
        """Requests known to wait."""
        return len(self._waiting)

    def waiting(self, rid: str) -> RequestState | None:
        """The waiting request of this id."""
        return self._waiting.get(rid)

    def all_waiting(self) -> list[RequestState]:
        """Those that wait, in order of arrival."""
        return list(self._waiting)

    def heads(self) -> list[RequestState]:
        """The next request of each side that is not exhausted, left first."""
        return self._waiting.heads()

    def check_when_idle(self) -> None:
        """Where nothing runs nothing is held; what is held all the same is a bug, which is told and ended.

        It would take memory from the others, or let them wait for nobody. No count here is more than a number
        to look at.
        """
        if len(self.running):
            return
        left = {
            "tokens of accounts": round(sum(map(abs, self.accounts.used.values()))),
            "prefixes in flight": len(self.in_flight),
        }
        if not len(self._waiting):
            left["requests of the plan"] = len(self._arrivals)
            left["requests expected by the cache"] = self.host.num_expected()
        if not any(left.values()):
            return
        words = ", ".join(f"{number} {what}" for what, number in left.items() if number)
        logger.error("Nothing runs, and there are %s; they are dropped. Please report this.", words)
        self.accounts = SideAccounts(self.cost)
        self.in_flight.clear()
        if not len(self._waiting):
            self._arrivals.clear()
            self.host.forget_all()

    # ---- inside

    def _stop(self, rid: str) -> RequestState:
        state = self.running.pop(rid)
        self.in_flight.drop(rid)
        self.accounts.leave(state)
        self._changed = True
        return state

    def _retracted(self, state: RequestState) -> RequestState:
        self.counters.retracted += 1
        (state.num_generated,) = self.host.count_generated([state])
        return self._stop(state.rid)

    def _lead(self, rid: str, match: Match) -> None:
        if self.finds_leaders:
            self.in_flight.lead(rid, match.place, match.rest)

    def _rest_density(self) -> float | None:
        """Compute over memory time of what is still to run, by the plan and what was learnt since."""
        nearest = self._waiting.first()
        return None if nearest is None else nearest.root_density * self._density_ratio

    def _plan_next_pool(self) -> None:
        if not (pool := self._arrivals.next_pool()):
            return
        places: dict[str, tuple[Key, Side]] = {}
        for rid, place in pool.items():
            state = self._waiting.get(rid)
            assert state is not None, f"{rid} was planned but does not wait"
            places[rid] = place_anew(state, place), place.side
            self.host.forget(rid)
            heapq.heappush(self._unexpected, (places[rid][0], rid))
        self._waiting.move(places)
        self._waiting.count_again()
        self.counters.plans += 1
        self._changed = True

    def _estimate_again(self) -> None:
        """Let what has finished, and how long the others have run, into the estimates."""
        if not (news := self._lengths.take_news()):
            return
        self.running.observe()
        for lengths in news:
            lengths.refresh([state.num_generated for state in self.running if state.expected is lengths])
            self.running.estimate_again(lengths)
        self._waiting.count_again()
        self._density_ratio = learnt_density_ratio(self._waiting)

    def _tell_host(self) -> None:
        """Enter some more waiting requests into the host's demand."""
        num_told = 0
        while self._unexpected and num_told < _EXPECTED_PER_PASS:
            key, rid = heapq.heappop(self._unexpected)
            state = self._waiting.get(rid)
            if state is not None and state.key == key:
                self.host.expect(state)
                num_told += 1

    def _merge_sides(self) -> list[RequestState]:
        """The head of the queue: both ends of the plan by the memory that each side holds."""
        balance = SideBalance(self.host.mem_tokens)
        balance.used.update(self.accounts.used)
        position = {Side.LEFT: 0, Side.RIGHT: 0}
        head: list[RequestState] = []
        while len(head) < self._ahead:
            left = self._waiting.ahead(Side.LEFT, position[Side.LEFT])
            right = self._waiting.ahead(Side.RIGHT, position[Side.RIGHT])
            side = balance.next_side(left, right)
            if side == Side.NONE:
                break
            taken = left if side == Side.LEFT else right
            assert taken is not None, side
            position[side] += 1
            balance.used[side] += taken.peak_tokens
            head.append(taken)
        return head
