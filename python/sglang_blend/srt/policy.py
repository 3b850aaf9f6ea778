"""`--schedule-policy dual-scan` and `stationary`: SGLang's waiting queue in planned order.

Before each prefill pass SGLang calls `calc_priority`. It takes in who came, settles who finished, and puts
the next candidates at the head of the queue: the two ends of the plan merged by the memory that each side
holds. Requests with hints were planned in the parent; others are planned here, pool by pool. The pass itself
runs through `BlendPrefillAdder`.

Nothing here depends on a clock or on hash order (times are only measured), so the ranks of a tensor-parallel
group decide alike.

SGLang 0.5.17: `SchedulePolicy.calc_priority`, `Scheduler._get_new_batch_prefill_raw`.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
from sglang.srt.mem_cache.radix_cache import RadixKey, TreeNode

from sglang_blend.core.pacing import full_pool_budget, prefill_tokens
from sglang_blend.core.request import Side
from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.scheduling.accounts import SideAccounts
from sglang_blend.scheduling.balance import SideBalance
from sglang_blend.scheduling.counters import Counters
from sglang_blend.scheduling.front import FrontOfQueue
from sglang_blend.scheduling.hints import HintError, Hints, read_hints
from sglang_blend.scheduling.in_flight import InFlightPrefixes
from sglang_blend.scheduling.lengths import ExpectedOutput, LengthClass, LengthClasses, PlannedLen
from sglang_blend.scheduling.online_plan import Newcomer, OnlinePlan, Place
from sglang_blend.scheduling.remaining_work import learnt_density_ratio, remaining_work
from sglang_blend.scheduling.waiting import Key, Waiting, WaitingRequests
from sglang_blend.srt.engine_cost import engine_cost
from sglang_blend.srt.options import BlendOptions
from sglang_blend.srt.prefill_adder import BlendPrefillAdder
from sglang_blend.srt.radix_cache import BlendRadixCache
from sglang_blend.srt.req_view import namespace, node_number

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

# Requests put in order at the head of the queue for one pass: twice as many as the last one looked at.
_LEAST_AHEAD, _MOST_AHEAD = 32, 512
# Waiting requests entered into the radix cache's demand in one pass, the next ones in the plan first.
_EXPECTED_PER_PASS = 16
# In the key of a waiting request: those without hints first, a person may be waiting for them.
_UNHINTED, _HINTED = 0, 1


class BlendSchedulePolicy(SchedulePolicy):
    """Keeps who waits and who runs, and orders the queue."""

    def __init__(self, policy: str, tree_cache: BasePrefixCache, *args: Any, server_args: ServerArgs) -> None:
        super().__init__("fcfs", tree_cache, *args)
        self.name = policy
        self.options = BlendOptions.from_env()
        self.counters = Counters()
        # Of the layers that see everything, where those with sliding windows have a pool of their own.
        self.mem_tokens: int = tree_cache.token_to_kv_pool_allocator.size_full
        self.in_flight = InFlightPrefixes(tree_cache.page_size)
        self.running: dict[str, Waiting] = {}
        self.candidates: set[str] = set()
        self._waiting = WaitingRequests()
        self._unexpected: list[tuple[Any, str]] = []  # a heap: who is not yet in the cache's demand
        self._lengths = LengthClasses()
        self._learnt: dict[LengthClass, None] = {}  # classes with news, in order
        self._density_ratio = 1.0  # of what waits, over what was planned
        self.cost = engine_cost(server_args, self.mem_tokens)
        self.accounts = SideAccounts(self.cost)
        self._plan = OnlinePlan(policy, self.cost, page_size=tree_cache.page_size)
        self._arrived = 0
        # Without a radix cache nobody finds what another one computes.
        self.finds_leaders = self.options.leader_rule and not getattr(tree_cache, "disable", False)
        self._cache = tree_cache if isinstance(tree_cache, BlendRadixCache) else None
        if self._cache is not None:
            self._cache.on_cached = self._on_cached
            self._cache.on_retracted = self._on_retracted
            self._cache.on_reset = self._forget_lengths
            if self.options.peak_admission:
                keep_what_retracted_requests_computed()
        self.knows_when_cached = self._cache is not None
        self._front = FrontOfQueue()
        self._num_arrived = self._num_admitted = 0  # since the queue was arranged
        self._changed = True
        self._last_pass: BlendPrefillAdder | None = None
        self._ahead = _MOST_AHEAD
        self.is_stuck = False

    def get_prefill_adder_class(self) -> Callable[..., PrefillAdder]:
        """SGLang's seam: what admits the requests of a pass."""
        return self._start_pass

    def _start_pass(self, *args: Any, **kwargs: Any) -> BlendPrefillAdder:
        self._last_pass = BlendPrefillAdder(*args, policy=self, **kwargs)
        return self._last_pass

    def calc_priority(self, waiting_queue: list[Req], running_batch: ScheduleBatch | None = None) -> None:
        """Put the next candidates at the head of `waiting_queue`, in place."""
        self.settle()
        self._check_emptiness()
        self._take_in(waiting_queue)
        self._plan_next_pool()
        self._estimate_again()
        self._tell_cache()
        if (last := self._last_pass) is not None:
            self.is_stuck = last.found_no_room and not self._changed
            self._ahead = min(max(2 * last.num_asked, _LEAST_AHEAD), _MOST_AHEAD)
        if self._changed:
            self._arrange(waiting_queue)
            self._changed = False
        if self._cache is None:
            self.in_flight.clear()

    def waiting(self, req: Req) -> Waiting | None:
        """What is known of a request in the queue."""
        return self._waiting.get(req.rid)

    def admit(self, req: Req, rest_start: int) -> None:
        """A request was admitted; its tokens from `rest_start` on are being computed."""
        waiting = self._waiting.remove(req.rid)
        waiting.extend_len = max(waiting.prompt_len - rest_start, 0)
        waiting.own_len = max(waiting.prompt_len - max(rest_start, waiting.shared_len), 0)
        self._plan.leave(waiting.rid)
        if self._cache is not None:
            self._cache.forget(waiting.rid)
        self.running[waiting.rid] = waiting
        self.accounts.enter(waiting)
        self.counters.admitted += 1
        self._num_admitted += 1
        self._changed = True
        self._lead(waiting.req, rest_start)

    def next_nodes(self) -> list[TreeNode]:
        """The cached nodes that the next request of each side matches up to."""
        if self._cache is None:
            return []
        nodes = [self._cache.node_of(head.rid) for head in self._waiting.heads()]
        return [node for node in nodes if node is not None]

    def paced_prefill_tokens(self, num_decoding: int, chunk_tokens: int) -> int:
        """Prompt tokens that a step may compute beside so many decoding requests, up to `chunk_tokens`.

        All of them where the job's density or the machine is not known, or nobody wants a pace.
        """
        density = self._rest_density()
        if not self.options.paced_budget or self.cost is None or density is None:
            return chunk_tokens
        budget = full_pool_budget(
            token_compute_s=self.cost.token_s,
            token_read_s=sum(self.cost.kv_read_s),
            kv_pool_tokens=self.mem_tokens,
            root_density=density,
        )
        tokens = min(prefill_tokens(budget, num_decoding, chunk_tokens), chunk_tokens)
        self.counters.paced_passes += tokens < chunk_tokens
        return tokens

    def split_work(self) -> SplitWork | None:
        """What waiting and running requests have still to do; None without a cost model."""
        if self.cost is None:
            return None
        self.settle()  # nobody asks for a pass while nothing waits
        return remaining_work(
            self._waiting,
            self.running.values(),
            cost=self.cost,
            mem_tokens=self.mem_tokens,
            root_density=self._rest_density() or 0.0,
        )

    def _rest_density(self) -> float | None:
        """Compute over memory time of what is still to run, by the plan and what was learnt since."""
        nearest = self._waiting.first()
        return None if nearest is None else nearest.root_density * self._density_ratio

    @property
    def num_waiting(self) -> int:
        """Requests known to wait."""
        return len(self._waiting)

    def _lead(self, req: Req, rest_start: int) -> None:
        if self.finds_leaders:
            rest = req.origin_input_ids[rest_start:]
            self.in_flight.lead(req.rid, node_number(req.last_node), namespace(req), rest)

    def _on_cached(self, req: Req, chunked: bool) -> None:
        if chunked:
            self._lead(req, len(req.prefix_indices))
        else:
            self.in_flight.drop(req.rid)

    def _on_retracted(self, req: Req) -> None:
        """It will be among the next ones: what it has computed is evicted last."""
        if (running := self.running.get(req.rid)) is not None:
            self._expect(running)

    def _forget_lengths(self) -> None:
        """The cache was flushed: what comes now is another job."""
        self._lengths = LengthClasses()
        self._learnt.clear()
        self._density_ratio = 1.0

    def settle(self) -> None:
        """Release who has finished."""
        finished = [rid for rid, running in self.running.items() if _has_left(running.req)]
        for rid in finished:
            self._finish(self.running.pop(rid))

    def _check_emptiness(self) -> None:
        """Where nothing runs nothing is held; what is held all the same is a bug, which is told and ended.

        It would take memory from the others, or let them wait for nobody. SGLang checks its own pools when it
        is idle (`SchedulerInvariantChecker`); here no count is more than a number to look at.
        """
        if self.running:
            return
        left = {
            "tokens of accounts": round(sum(map(abs, self.accounts.used.values()))),
            "prefixes in flight": len(self.in_flight),
        }
        if not len(self._waiting):
            left["requests of the plan"] = len(self._plan)
            left["requests expected by the cache"] = 0 if self._cache is None else self._cache.num_expected
        if not any(left.values()):
            return
        words = ", ".join(f"{number} {what}" for what, number in left.items() if number)
        logger.error("Nothing runs, and there are %s; they are dropped. Please report this.", words)
        self.accounts = SideAccounts(self.cost)
        self.in_flight.clear()
        if not len(self._waiting):
            self._plan.clear()
            if self._cache is not None:
                self._cache.forget_all()

    def _finish(self, running: Waiting) -> None:
        req = running.req
        self.in_flight.drop(req.rid)
        self._changed = True
        self.accounts.leave(running)
        if req.finished_reason is None or req.finished_reason.to_json().get("type") == "abort":
            return
        output_len = len(req.output_ids)
        self.counters.finished += 1
        if output_len < 0.75 * running.mean_len:
            self.counters.early += 1
        elif output_len > 1.25 * running.mean_len:
            self.counters.overrun += 1
        if isinstance(running.expected, LengthClass):
            running.expected.observe(output_len)
            self._learnt[running.expected] = None

    def _take_in(self, waiting_queue: list[Req]) -> None:
        """Arrivals stand at the end of the queue; whoever is missing was aborted."""
        arrivals = []
        for req in reversed(waiting_queue):
            known = self._waiting.get(req.rid)
            if known is not None and known.req is req:
                break
            arrivals.append(req)
        for req in reversed(arrivals):
            self._arrive(req)
        for running in [r for r in self.running.values() if _is_lost(r.req)]:
            self._drop_running(running)
        if len(self._waiting) != len(waiting_queue):
            still_there = {req.rid for req in waiting_queue}
            for rid in [waiting.rid for waiting in self._waiting if waiting.rid not in still_there]:
                self._drop_waiting(rid)
            self._changed = True

    def _drop_waiting(self, rid: str) -> None:
        self._waiting.remove(rid)
        self._plan.leave(rid)
        if self._cache is not None:
            self._cache.forget(rid)

    def _drop_running(self, running: Waiting) -> None:
        """It runs no more, and nothing said so: retracted and then aborted, or its name is another's now."""
        del self.running[running.rid]
        self._finish(running)
        if self._cache is not None:
            self._cache.forget(running.rid)

    def _arrive(self, req: Req) -> None:
        self._arrived += 1
        self._num_arrived += 1
        self._changed = True
        if req.rid in self._waiting:  # an aborted one of the same name
            self._drop_waiting(req.rid)
        if (other := self.running.get(req.rid)) is not None and other.req is not req:
            self._drop_running(other)
        before = self.running.pop(req.rid, None)
        if before is not None:  # retracted
            self.counters.retracted += 1
            self.accounts.leave(before)
            self.in_flight.drop(req.rid)
        hints = (before is None and self._hints_of(req)) or None
        if before is not None:
            before.req = req
            waiting = before
        elif hints is not None:
            waiting = self._with_hints(req, hints)
        else:
            waiting = self._without_hints(req)
        self._waiting.add(waiting)
        if self._cache is not None:
            heapq.heappush(self._unexpected, (waiting.key, waiting.rid))

    def _hints_of(self, req: Req) -> Hints | None:
        try:
            return read_hints(req.sampling_params.custom_params)
        except HintError as e:
            if self.counters.refused_hints == 0:
                logger.warning("Hints of request %s are ignored, and those of others like it: %s", req.rid, e)
            self.counters.refused_hints += 1
            return None

    def _with_hints(self, req: Req, hints: Hints) -> Waiting:
        cap = max(req.sampling_params.max_new_tokens, 1)
        key = (_HINTED, 0, hints.rank, self._arrived)
        return self._as_planned(req, key, self._expected(req, cap, hints), hints.est_output_len, hints)

    def _without_hints(self, req: Req) -> Waiting:
        cap = max(req.sampling_params.max_new_tokens, 1)
        expected = self._expected(req, cap)
        mean, high = expected.remaining(0, cap)
        place = self._plan.arrive(Newcomer(req.rid, req.origin_input_ids, cap, mean, high, namespace(req)))
        key = (_UNHINTED, place.pool, place.rank, self._arrived)
        return self._as_planned(req, key, expected, mean, place)

    def _expected(self, req: Req, cap: int, hints: Hints | None = None) -> ExpectedOutput:
        """By the rule of `scheduling.hints`."""
        if req.sampling_params.ignore_eos:
            return PlannedLen(cap, cap)
        if hints is not None and hints.num_observed:
            return PlannedLen(min(hints.est_output_len, cap), min(hints.admission_output_len, cap))
        return self._lengths.of(cap)

    def _as_planned(
        self, req: Req, key: Key, expected: ExpectedOutput, planned_len: float, plan: Hints | Place
    ) -> Waiting:
        return Waiting(
            req=req,
            rid=req.rid,
            key=key,
            side=plan.side,
            prompt_len=len(req.origin_input_ids),
            max_new_tokens=max(req.sampling_params.max_new_tokens, 1),
            expected=expected,
            planned_len=planned_len,
            density=plan.density,
            root_density=plan.root_density,
            shared_len=plan.shared_len,
        )

    def _plan_next_pool(self) -> None:
        if not (pool := self._plan.next_pool()):
            return
        places: dict[str, tuple[Key, Side]] = {}
        for rid, place in pool.items():
            waiting = self._waiting.get(rid)
            assert waiting is not None, f"{rid} was planned but does not wait"
            waiting.density, waiting.root_density = place.density, place.root_density
            waiting.shared_len = place.shared_len
            key = (_UNHINTED, place.pool, place.rank, waiting.key[-1])
            places[rid] = key, place.side
            if self._cache is not None:
                self._cache.forget(rid)
                heapq.heappush(self._unexpected, (key, rid))
        self._waiting.move(places)
        self.counters.plans = self._plan.num_plans
        self._changed = True

    def _estimate_again(self) -> None:
        """Let what has finished, and how long the others have run, into the estimates."""
        news = [lengths for lengths in self._learnt if lengths.has_news]
        for lengths in news:
            lengths.refresh([r.num_generated for r in self.running.values() if r.expected is lengths])
            del self._learnt[lengths]
        if news:
            self._density_ratio = learnt_density_ratio(self._waiting)

    def _tell_cache(self) -> None:
        """Enter some more waiting requests into the demand of the radix cache."""
        if self._cache is None:
            return
        num_told = 0
        while self._unexpected and num_told < _EXPECTED_PER_PASS:
            key, rid = heapq.heappop(self._unexpected)
            waiting = self._waiting.get(rid)
            if waiting is not None and waiting.key == key:
                self._expect(waiting)
                num_told += 1

    def _expect(self, waiting: Waiting) -> None:
        assert self._cache is not None
        req = waiting.req
        tokens = RadixKey(req.origin_input_ids + req.output_ids, req.extra_key)
        self._cache.expect(waiting.rid, tokens, waiting.key)

    def _arrange(self, waiting_queue: list[Req]) -> None:
        self.counters.relocated += self.accounts.count(self.running.values())
        balance = SideBalance(self.mem_tokens)
        balance.used.update(self.accounts.used)
        position = {Side.LEFT: 0, Side.RIGHT: 0}
        head: list[Req] = []
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
            head.append(taken.req)
        self.candidates = {req.rid for req in head}
        self._front.update(waiting_queue, self._num_arrived, self._num_admitted)
        self._front.bring(waiting_queue, head)
        self._num_arrived = self._num_admitted = 0


def _has_left(req: Req) -> bool:
    """Finished, or aborted by `retract_decode`, which takes its KV and notes no reason for its end."""
    return req.finished() or (req.to_finish is not None and req.req_pool_idx is None)


def _is_lost(req: Req) -> bool:
    """Without a place in the KV pool it does not run; whoever asks has looked for it among the waiting."""
    return req.req_pool_idx is None


def keep_what_retracted_requests_computed() -> None:
    """Let a retraction evict for the next step only, unless the user's environment says otherwise.

    SGLang evicts for 20 steps of all that run (`release_req`), which would be all that the retracted request
    has just left in the cache. What the steps need they evict when they come. The same number enters SGLang's
    reservation for running requests, which admission by expected peak replaces.
    """
    os.environ.setdefault("SGLANG_RETRACT_DECODE_STEPS", "1")
