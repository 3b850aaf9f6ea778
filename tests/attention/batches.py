"""Batches as the radix cache makes them: equal slots exactly where prompts share a prefix."""

import numpy as np
from hypothesis import strategies as st

from sglang_blend.cost.break_even import BreakEven

FREE = BreakEven(group_tokens=0, reader_tokens=0)

break_evens = st.builds(
    BreakEven, group_tokens=st.sampled_from([0, 3, 10, 40]), reader_tokens=st.sampled_from([0, 0.5, 2])
)


class RadixSlots:
    """Hands out slots: a token of a known prefix has that prefix's slot, any other a new one."""

    def __init__(self) -> None:
        self._slot_of: dict[tuple[int, ...], int] = {}

    def slots(self, tokens: list[int]) -> np.ndarray:
        """(n,) int32, the slots of a prompt."""
        prefixes = [tuple(tokens[: i + 1]) for i in range(len(tokens))]
        return np.array([self._slot_of.setdefault(p, len(self._slot_of) + 1) for p in prefixes], np.int32)


# Few token values and common stems, so that prompts really share prefixes, on several levels.
prompts = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 30), st.integers(0, 12), st.lists(st.integers(0, 1), max_size=4)
    ).map(lambda p: [p[0]] * p[1] + [p[0] + 1] * p[2] + p[3]),
    max_size=12,
)
