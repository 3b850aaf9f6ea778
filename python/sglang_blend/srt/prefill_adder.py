"""SGLang's `PrefillAdder` with our verdict before its own: it keeps the budgets of the step and allocates.

SGLang reserves `max_new_tokens` for a new request and a learnt share of it for running ones; where memory is
judged by expected peak (`scheduling.admission`) that is replaced by a page each, which only says that the
next step must be possible.

SGLang 0.5.17: `PrefillAdder.add_one_req`, `_expected_new_tokens` and `AddReqResult.SKIP` (our seams).
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import AddReqResult, PrefillAdder

from sglang_blend.scheduling.admission import Verdict
from sglang_blend.scheduling.scheduler import Scheduler
from sglang_blend.srt.scheduling_host import SGLangHost

_IN_SGLANG = {
    Verdict.SKIP: AddReqResult.SKIP,
    Verdict.STOP: AddReqResult.OTHER,
    Verdict.FULL: AddReqResult.NO_TOKEN,
}


class Seat(Protocol):
    """What a pass asks of the policy that it belongs to; see `srt.policy.BlendSchedulePolicy`."""

    scheduler: Scheduler
    host: SGLangHost
    admission_s: float

    def on_admitted(self) -> None:
        """A request leaves the queue after this pass."""


class BlendPrefillAdder(PrefillAdder):
    """One prefill pass under our policy."""

    rem_chunk_tokens: int | None  # set by SGLang's, which counts it down

    def __init__(self, *args: Any, policy: Seat, **kwargs: Any) -> None:
        self._policy = policy  # before super: it asks for the running requests' reservations
        self._reserves_pages = policy.scheduler.options.peak_admission
        super().__init__(*args, **kwargs)
        policy.host.adder = self
        num_decoding = self.cur_rem_token_offset  # so many requests will decode in this step: mixed chunk
        self._pass = policy.scheduler.begin_pass(
            num_decoding=num_decoding, chunk_tokens=self.rem_chunk_tokens
        )
        self.rem_chunk_tokens = self._pass.prefill_tokens
        self._is_mixed = bool(num_decoding) and self.rem_chunk_tokens is not None
        self._is_parked = False

    def _expected_new_tokens(self, req: Req, num_generated: int = 0) -> int:
        expected: int = super()._expected_new_tokens(req, num_generated)
        return min(expected, self.page_size) if self._reserves_pages else expected

    def _get_running_request_total_token_offset(self, req: Req) -> float:
        if not self._reserves_pages:
            offset: float = super()._get_running_request_total_token_offset(req)
            return offset
        return self.page_size

    def add_one_req(self, req: Req, has_chunked_req: bool, truncation_align_size: int | None) -> AddReqResult:
        """SGLang's seam: the verdict on the next request of the queue."""
        policy = self._policy
        start = time.thread_time()
        state = policy.scheduler.waiting(req.rid)
        assert state is not None, f"{req.rid} is in the waiting queue and the scheduler has not seen it"
        policy.host.matched = req
        verdict = Verdict.STOP if self._is_parked else self._pass.ask(state)
        policy.admission_s += time.thread_time() - start
        if verdict != Verdict.ADMIT:
            return _IN_SGLANG[verdict]
        result = super().add_one_req(req, has_chunked_req, truncation_align_size)
        if self.can_run_list and self.can_run_list[-1] is req:
            self._pass.admitted(state)
            policy.on_admitted()
        return result

    def add_chunked_req(self, req: Req) -> Req | None:
        """A prompt goes on, but not where a mixed step would have no memory for those that decode.

        SGLang takes the next chunk whatever is free, and a mixed step decodes without asking. Parked, as
        SGLang parks it for sliding windows, the chunk waits while decode runs alone and retracts.
        """
        if self._is_mixed and self.rem_total_tokens <= 0:
            self._is_parked = True
            return req
        return super().add_chunked_req(req)
