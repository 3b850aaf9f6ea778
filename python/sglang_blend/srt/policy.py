"""`--schedule-policy dual-scan` and `stationary`: our scheduler in SGLang's seat. Nothing is decided here.

Before each prefill pass SGLang calls `calc_priority`. It tells `scheduling.Scheduler` who came, who left and
who finished, and puts the candidates that it names at the head of the queue. The pass itself runs through
`BlendPrefillAdder`.

Times are only measured, and nothing depends on hash order, so the ranks of a tensor-parallel group decide
alike.

SGLang 0.5.17: `SchedulePolicy.calc_priority`, `Scheduler._get_new_batch_prefill_raw`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import PrefillAdder, SchedulePolicy
from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache

from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.scheduling.arrivals import Arrival
from sglang_blend.scheduling.scheduler import Scheduler
from sglang_blend.srt.engine_cost import engine_cost
from sglang_blend.srt.options import BlendOptions
from sglang_blend.srt.prefill_adder import BlendPrefillAdder
from sglang_blend.srt.queue_head import QueueHead
from sglang_blend.srt.radix_cache import BlendRadixCache
from sglang_blend.srt.scheduling_host import SGLangHost, namespace

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs


class BlendSchedulePolicy(SchedulePolicy):
    """Tells the scheduler what happens, and SGLang what it decides.

    Attributes:
        name: as `--schedule-policy` has it.
        scheduler: who decides.
        host: what it asks.
        admission_s: seconds of CPU time spent on deciding about single requests.
    """

    def __init__(self, policy: str, tree_cache: BasePrefixCache, *args: Any, server_args: ServerArgs) -> None:
        super().__init__("fcfs", tree_cache, *args)
        self.name = policy
        self.host = SGLangHost(tree_cache)
        options = BlendOptions.from_env()
        cost = engine_cost(server_args, self.host.mem_tokens)
        self.scheduler = Scheduler(policy, self.host, cost, options)
        self.admission_s = 0.0
        self._queue = QueueHead()
        if isinstance(tree_cache, BlendRadixCache):
            tree_cache.on_cached = self._on_cached
            tree_cache.on_retracted = lambda req: self.scheduler.retracting(req.rid)
            tree_cache.on_reset = self.scheduler.forget_lengths
            if options.peak_admission:
                keep_what_retracted_requests_computed()

    def get_prefill_adder_class(self) -> Callable[..., PrefillAdder]:
        """SGLang's seam: what admits the requests of a pass."""
        return lambda *args, **kwargs: BlendPrefillAdder(*args, policy=self, **kwargs)

    def calc_priority(self, waiting_queue: list[Req], running_batch: ScheduleBatch | None = None) -> None:
        """Put the next candidates at the head of `waiting_queue`, in place."""
        self.settle()
        self.scheduler.check_when_idle()
        self._take_in(waiting_queue)
        if (head := self.scheduler.next_candidates()) is not None:
            self._queue.bring(waiting_queue, [state.handle for state in head])

    def on_admitted(self) -> None:
        """A request leaves the queue after this pass."""
        self._queue.admitted()

    def settle(self) -> None:
        """Tell the scheduler who has finished."""
        for state in [state for state in self.scheduler.running if _has_left(state.handle)]:
            req: Req = state.handle
            if req.finished_reason is None or req.finished_reason.to_json().get("type") == "abort":
                self.scheduler.drop(state.rid)
            else:
                self.scheduler.finish(state.rid, len(req.output_ids))

    def split_work(self) -> SplitWork | None:
        """What waiting and running requests have still to do; None without a cost model."""
        self.settle()  # nobody asks for a pass while nothing waits
        return self.scheduler.split_work()

    def _take_in(self, waiting_queue: list[Req]) -> None:
        """Arrivals stand at the end of the queue; whoever is missing was aborted."""
        scheduler = self.scheduler
        for req in self._queue.arrivals(waiting_queue, self._waits):
            scheduler.arrive(_arrival(req))
        for state in [state for state in scheduler.running if _is_lost(state.handle)]:
            scheduler.drop(state.rid)
        if scheduler.num_waiting != len(waiting_queue):
            still_there = {req.rid for req in waiting_queue}
            for state in scheduler.all_waiting():
                if state.rid not in still_there:
                    scheduler.leave(state.rid)

    def _waits(self, req: Req) -> bool:
        state = self.scheduler.waiting(req.rid)
        return state is not None and state.handle is req

    def _on_cached(self, req: Req, chunked: bool) -> None:
        if chunked:
            self.scheduler.chunk_cached(req.rid)
        else:
            self.scheduler.cached(req.rid)


def _arrival(req: Req) -> Arrival:
    params = req.sampling_params
    return Arrival(
        rid=req.rid,
        handle=req,
        prompt_len=len(req.origin_input_ids),
        max_new_tokens=params.max_new_tokens,
        is_fixed_len=params.ignore_eos,
        custom_params=params.custom_params,
        token_ids=req.origin_input_ids,
        namespace=namespace(req),
    )


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
