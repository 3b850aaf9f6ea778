"""What comes to the scheduler, and what it makes of it: place, side and expected length of a request.

Requests with hints were planned in the parent; others get a place in a plan made here, pool by pool.
"""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass, field
from typing import Any

from sglang_blend.scheduling.hints import HintError, Hints, read_hints
from sglang_blend.scheduling.lengths import ExpectedOutput, LengthClasses, PlannedLen
from sglang_blend.scheduling.online_plan import Newcomer, OnlinePlan, Place
from sglang_blend.scheduling.request_state import Key, RequestState

logger = logging.getLogger(__name__)

# In the key of a waiting request: those without hints first, a person may be waiting for them.
_UNHINTED, _HINTED = 0, 1


@dataclass(kw_only=True)
class Arrival:
    """A request that comes, for the first time or again after its memory was taken back.

    Attributes:
        rid: its id; a name may be used again once its request is gone.
        handle: what the host knows it by; the same object when it comes again.
        prompt_len: tokens.
        max_new_tokens: cap on its output, tokens; at least 1 is assumed.
        is_fixed_len: its output has as many tokens as the cap.
        custom_params: what may carry its hints (`scheduling.hints`).
        token_ids: its prompt, for a plan made here; needed where there are no hints.
        namespace: requests of different ones never share a prefix.
    """

    rid: str
    handle: Any
    prompt_len: int
    max_new_tokens: int
    is_fixed_len: bool = False
    custom_params: object = None
    token_ids: array[int] = field(default_factory=lambda: array("q"))
    namespace: str = ""


class Arrivals:
    """Makes the state of a request that comes.

    Attributes:
        num_refused: requests whose hints could not be used; they were taken as if they had none.
    """

    def __init__(self, plan: OnlinePlan, lengths: LengthClasses) -> None:
        """Args: plan: for requests without hints; lengths: of those whose length nobody knows."""
        self.num_refused = 0
        self._plan, self._lengths = plan, lengths
        self._num_arrived = 0

    def __len__(self) -> int:
        """Requests without hints that wait, as far as the plan knows."""
        return len(self._plan)

    def state_of(self, arrival: Arrival) -> RequestState:
        """Its place by its hints, or by a plan made here; its length by the rule of `scheduling.hints`."""
        self._num_arrived += 1
        hints = self._hints_of(arrival)
        cap = max(arrival.max_new_tokens, 1)
        expected = self._expected(arrival, cap, hints)
        plan: Hints | Place
        if hints is not None:
            plan, planned_len = hints, float(hints.est_output_len)
            key: Key = (_HINTED, 0, hints.rank, self._num_arrived)
        else:
            planned_len, high = expected.remaining(0, cap)
            plan = self._plan.arrive(
                Newcomer(arrival.rid, arrival.token_ids, cap, planned_len, high, arrival.namespace)
            )
            key = (_UNHINTED, plan.pool, plan.rank, self._num_arrived)
        return RequestState(
            rid=arrival.rid,
            handle=arrival.handle,
            key=key,
            side=plan.side,
            prompt_len=arrival.prompt_len,
            max_new_tokens=cap,
            expected=expected,
            planned_len=planned_len,
            density=plan.density,
            root_density=plan.root_density,
            shared_len=plan.shared_len,
        )

    def leave(self, rid: str) -> None:
        """A request waits no longer."""
        self._plan.leave(rid)

    def clear(self) -> None:
        """Nobody waits."""
        self._plan.clear()

    def next_pool(self) -> dict[str, Place]:
        """The new places of requests without hints, when the pool before has nearly run out; else nothing."""
        return self._plan.next_pool()

    def _hints_of(self, arrival: Arrival) -> Hints | None:
        try:
            return read_hints(arrival.custom_params)
        except HintError as e:
            if self.num_refused == 0:
                logger.warning(
                    "Hints of request %s are ignored, and those of others like it: %s", arrival.rid, e
                )
            self.num_refused += 1
            return None

    def _expected(self, arrival: Arrival, cap: int, hints: Hints | None) -> ExpectedOutput:
        if arrival.is_fixed_len:
            return PlannedLen(cap, cap)
        if hints is not None and hints.num_observed:
            return PlannedLen(min(hints.est_output_len, cap), min(hints.admission_output_len, cap))
        return self._lengths.of(cap)


def place_anew(state: RequestState, place: Place) -> Key:
    """Note the densities of a planned place; returns the key that it brings."""
    state.density, state.root_density = place.density, place.root_density
    state.shared_len = place.shared_len
    return _UNHINTED, place.pool, place.rank, state.key[-1]
