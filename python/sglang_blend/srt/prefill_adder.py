"""Admission in a prefill pass: candidates of the plan, one leader per new prefix, memory by expected peak.

SGLang's own `PrefillAdder` keeps the budgets of the step and allocates; before it looks at a request this
one asks three questions: is it the plan's turn, is its prefix being computed by another (then it waits a
pass, with its memory kept for it), and will the memory suffice until the running requests end as expected.
Where it will not, the other side has its turn, and a few requests that come later in the plan may use the
room until then, if they are expected to end before half of the running ones do (EASY backfilling).

SGLang reserves `max_new_tokens` for a new request and a learnt share of it for running ones; that is
replaced by a page each, which only says that the next step must be possible.

SGLang 0.5.17: `PrefillAdder.add_one_req`, `_expected_new_tokens` and `AddReqResult.SKIP` (our seams).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from sglang.srt.environ import envs
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import AddReqResult, PrefillAdder

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.core.request import Side
from sglang_blend.core.sharing import LEAST_SHARED_LEN
from sglang_blend.scheduling.peak import ExpectedPeak
from sglang_blend.scheduling.waiting import Waiting
from sglang_blend.scheduling.window_peak import WindowPeak
from sglang_blend.srt.req_view import namespace, node_number, unlocked_path

if TYPE_CHECKING:
    from sglang_blend.srt.policy import BlendSchedulePolicy


# Requests that may ask for room after one found none; each asks the radix cache, some tens of microseconds.
_BACKFILL_TRIES = 8
# Passes that a request waits for a prefix in a cache that may not hold it afterwards: with state-space layers
# SGLang keeps the states at few places, and those where two prompts part only from the second of them on.
_MOST_WAITS = 2


class BlendPrefillAdder(PrefillAdder):
    """One prefill pass under `BlendSchedulePolicy`.

    Attributes:
        num_asked: requests of the queue that were looked at.
    """

    def __init__(self, *args: Any, policy: BlendSchedulePolicy, **kwargs: Any) -> None:
        self._policy = policy  # before super: it asks for the running requests' reservations
        self._peak: ExpectedPeak | None = None
        self._window_peak: WindowPeak | None = None  # of the pool of layers with a sliding window
        self.num_asked = 0
        self._num_reserved = 0
        self._num_refused = 0
        self._blocked: set[Side] = set()
        self._kept_nodes: Collection[int] = ()
        # What the present request asks of the memory: own tokens, tokens to come, tokens newly locked.
        self._asked: tuple[int, float, int] = (0, 0.0, 0)
        super().__init__(*args, **kwargs)
        self._is_parked = False
        num_decoding = self.cur_rem_token_offset  # so many requests will decode in this step: mixed chunk
        self._is_mixed = bool(num_decoding) and self.rem_chunk_tokens is not None
        if self._is_mixed:
            self.rem_chunk_tokens = policy.paced_prefill_tokens(num_decoding, self.rem_chunk_tokens)
        self._pass_tokens = self.rem_chunk_tokens  # of a whole pass; what remains of this one shrinks

    def _expected_new_tokens(self, req: Req, num_generated: int = 0) -> int:
        expected = super()._expected_new_tokens(req, num_generated)
        return min(expected, self.page_size) if self._policy.options.peak_admission else expected

    def _get_running_request_total_token_offset(self, req: Req) -> float:
        if not self._policy.options.peak_admission:
            return super()._get_running_request_total_token_offset(req)
        return self.page_size

    def add_one_req(self, req: Req, has_chunked_req: bool, truncation_align_size: int | None) -> AddReqResult:
        """SGLang's seam: the verdict on the next request of the queue."""
        start = time.thread_time()
        verdict = self._refuse(req, has_chunked_req)
        self._policy.counters.admission_s += time.thread_time() - start
        if verdict is not None:
            return verdict
        rest_start = len(req.prefix_indices)
        verdict = super().add_one_req(req, has_chunked_req, truncation_align_size)
        if self.can_run_list and self.can_run_list[-1] is req:
            self._count_asked()
            self._policy.admit(req, rest_start)
        return verdict

    def add_chunked_req(self, req: Req) -> Req | None:
        """A prompt goes on, but not where a mixed step would have no memory for those that decode.

        SGLang takes the next chunk whatever is free, and a mixed step decodes without asking. Parked, as
        SGLang parks it for sliding windows, the chunk waits while decode runs alone and retracts.
        """
        if self._is_mixed and self.rem_total_tokens <= 0:
            self._is_parked = True
            return req
        return super().add_chunked_req(req)

    def _refuse(self, req: Req, has_chunked_req: bool) -> AddReqResult | None:
        """Our own questions; None when there is nothing against the request."""
        policy = self._policy
        self.num_asked += 1
        waiting = policy.waiting(req)
        assert waiting is not None, f"{req.rid} is in the waiting queue and the policy has not seen it"
        is_idle = not (self.can_run_list or policy.running or has_chunked_req)
        if policy.is_stuck:
            return AddReqResult.NO_TOKEN
        if self._is_parked:
            return AddReqResult.OTHER
        if req.rid not in policy.candidates and not is_idle:
            return AddReqResult.OTHER
        rest = req.full_untruncated_fill_ids[len(req.prefix_indices) :]
        in_flight_len = self._in_flight_len(req, rest)
        if in_flight_len and not policy.knows_when_cached:
            may_wait = waiting.may_wait(len(req.prefix_indices), _MOST_WAITS)
            in_flight_len = in_flight_len if may_wait else 0
        num_new = len(rest) - in_flight_len
        until_end = self._remaining(waiting) + self._num_passes(num_new)
        self._asked = (num_new, until_end, self._newly_locked_len(req))
        if policy.options.peak_admission and not is_idle and not self._has_room(waiting):
            self._num_refused += 1
            if self._num_refused <= _BACKFILL_TRIES:
                return AddReqResult.SKIP
            # Whoever waits for a prefix goes in the next pass, without anything having finished.
            return AddReqResult.OTHER if self._num_reserved else AddReqResult.NO_TOKEN
        if in_flight_len:
            self._count_asked()
            self._num_reserved += 1
            policy.counters.skipped += 1
            return AddReqResult.SKIP
        return None

    def _num_passes(self, num_new: int) -> int:
        """Steps, beyond one, that such a prompt is computed in while others decode."""
        if not self._is_mixed:
            return 0
        return max(math.ceil(num_new / max(self._pass_tokens, 1)) - 1, 0)

    def _has_room(self, waiting: Waiting) -> bool:
        side, peak = waiting.account, self._expected_peak()
        if side in self._blocked and not self._may_backfill(waiting):
            return False
        context, remaining, _ = self._asked
        if peak.fits(*self._asked) and (
            self._window_peak is None or self._window_peak.fits(context, remaining)
        ):
            return True
        self._blocked.add(side)
        return False

    def _count_asked(self) -> None:
        context, remaining, _ = self._asked
        self._expected_peak().add(*self._asked)
        if self._window_peak is not None:
            self._window_peak.add(context, remaining)

    def _peak_in_windows(self, context: FloatArray, remaining: FloatArray) -> WindowPeak:
        """Of the pool of layers with a window, as the requests in it are now.

        SGLang frees what has left the window every so many steps, and not what the radix cache holds of the
        prompt's last window: a request never holds more than two windows and those steps.
        """
        allocator, tree = self.token_to_kv_pool_allocator, self.tree_cache
        steps = max(envs.SGLANG_SWA_EVICTION_INTERVAL.get(), 1)
        return WindowPeak(
            pool_tokens=allocator.size_swa - self.cur_rem_token_offset,
            used_tokens=allocator.size_swa - allocator.swa_available_size() - tree.swa_evictable_size(),
            most_tokens=2 * tree.sliding_window_size + steps + self.page_size,
            context_len=context,
            remaining_len=remaining,
        )

    def _may_backfill(self, waiting: Waiting) -> bool:
        """Short, and without a new prefix that others would need before it is evicted again."""
        return not self._opens_prefix(waiting) and self._asked[1] <= self._expected_peak().median_remaining

    @staticmethod
    def _opens_prefix(waiting: Waiting) -> bool:
        """Whether it computes tokens that others of the plan share."""
        return len(waiting.req.prefix_indices) + LEAST_SHARED_LEN < waiting.shared_len

    @property
    def found_no_room(self) -> bool:
        """Nobody could be admitted, and nobody will before something finishes."""
        return self._num_refused > 0 and not self.can_run_list and not self._num_reserved

    def _in_flight_len(self, req: Req, rest: Any) -> int:
        if not self._policy.finds_leaders:
            return 0
        return self._policy.in_flight.shared_len(node_number(req.last_node), namespace(req), rest)

    def _newly_locked_len(self, req: Req) -> int:
        self._expected_peak()
        path = unlocked_path(req.last_node)
        return sum(len(node.key) for node in path if node.id not in self._kept_nodes)

    def _remaining(self, waiting: Waiting) -> float:
        return waiting.remaining_len(waiting.num_generated, self._expected_peak().num_requests + 1)

    def _expected_peak(self) -> ExpectedPeak:
        """Made when the first candidate asks: the running requests as they are now."""
        if self._peak is None:
            running = self._policy.running.values()
            generated = [waiting.num_generated for waiting in running]
            context = np.array([waiting.own_len for waiting in running], np.float64) + generated
            remaining = [
                waiting.remaining_len(length, len(generated))
                for waiting, length in zip(running, generated, strict=True)
            ]
            free = self.rem_total_tokens + self.rem_total_token_offset
            # The prompt that is computed in chunks counts whole in its context, and holds what it has so far.
            to_come = sum(len(r.full_untruncated_fill_ids) - len(r.prefix_indices) for r in self.can_run_list)
            shared = max(self._policy.mem_tokens - free - context.sum() + to_come, 0)
            # The prefixes that both sides go on with stay, though nobody may be holding them just now.
            kept = {n.id: len(n.key) for node in self._policy.next_nodes() for n in unlocked_path(node)}
            self._kept_nodes = kept.keys()
            # Mixed batches decode without SGLang's check that memory suffices: keep their tokens free.
            free_for_all = self._policy.mem_tokens - self.cur_rem_token_offset
            self._peak = ExpectedPeak(
                free_for_all, shared + sum(kept.values()), context, np.array(remaining, np.float64)
            )
            if self.is_hybrid_swa:
                self._window_peak = self._peak_in_windows(context, np.array(remaining, np.float64))
        return self._peak
