"""The requests that run, and what they hold and will add as columns.

A pass asks for the expected peak of all that runs; only what changed since the last pass is looked at one by
one, the rest is a few array operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.scheduling.lengths import ExpectedOutput
from sglang_blend.scheduling.request_state import RequestState

# Output tokens so far of each request, in the order given.
CountGenerated = Callable[[Sequence[RequestState]], Sequence[int]]


class RunningRequests:
    """By id, in any order; columns are kept beside it."""

    def __init__(self, count_generated: CountGenerated) -> None:
        self._count = count_generated
        self._states: list[RequestState] = []
        self._at: dict[str, int] = {}
        self._own_len = np.zeros(64)
        self._end_len = np.zeros(64)

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[RequestState]:
        return iter(self._states)

    def __contains__(self, rid: str) -> bool:
        return rid in self._at

    def get(self, rid: str) -> RequestState | None:
        """The running request of this id."""
        at = self._at.get(rid)
        return None if at is None else self._states[at]

    def add(self, state: RequestState) -> None:
        """It was admitted, with its lengths set."""
        at = len(self._states)
        if at == len(self._own_len):
            self._own_len = np.concatenate([self._own_len, np.zeros(at)])
            self._end_len = np.concatenate([self._end_len, np.zeros(at)])
        self._at[state.rid] = at
        self._states.append(state)
        self._own_len[at] = state.own_len
        self._end_len[at] = 0.0

    def pop(self, rid: str) -> RequestState:
        """It runs no more; the last one takes its place in the columns."""
        at, last = self._at.pop(rid), len(self._states) - 1
        state, moved = self._states[at], self._states.pop()
        if at != last:
            self._states[at] = moved
            self._at[moved.rid] = at
            self._own_len[at], self._end_len[at] = self._own_len[last], self._end_len[last]
        return state

    def estimate_again(self, expected: ExpectedOutput) -> None:
        """What is known of these lengths has changed."""
        for at, state in enumerate(self._states):
            if state.expected is expected:
                self._end_len[at] = 0.0

    def observe(self) -> None:
        """Ask the host how far each has come."""
        for state, generated in zip(self._states, self._count(self._states), strict=True):
            state.num_generated = generated

    def held_and_to_come(self) -> tuple[FloatArray, FloatArray]:
        """Asks the host first.

        Returns:
            (r,) float64, tokens that each holds alone, and tokens that it is expected to add.
        """
        size = len(self._states)
        generated = np.array(self._count(self._states), np.float64)
        for at in np.flatnonzero(generated >= self._end_len[:size]).tolist():
            state = self._states[at]
            state.num_generated = int(generated[at])
            self._end_len[at] = state.end_len(size)
        return self._own_len[:size] + generated, self._end_len[:size] - generated
