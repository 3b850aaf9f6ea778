"""The arrays for paged kernels: attention level by level over them is attention over whole requests."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attention.batches import FREE, RadixSlots, break_evens, prompts
from oracles.naive_groups import naive_groups
from sglang_blend.attention.level_arrays import level_arrays


def attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Of one query: output and log-sum-exp."""
    scores = keys @ query
    lse = float(np.logaddexp.reduce(scores))
    return np.exp(scores - lse) @ values, lse


def merge(a: tuple[np.ndarray, float], b: tuple[np.ndarray, float]) -> tuple[np.ndarray, float]:
    lse = np.logaddexp(a[1], b[1])
    return np.exp(a[1] - lse) * a[0] + np.exp(b[1] - lse) * b[0], lse


@given(prompts.filter(len), break_evens, st.integers(0, 2**31))
def test_the_levels_and_the_private_parts_are_the_whole(prompts: Any, break_even: Any, seed: Any) -> None:
    """What the GPU backend computes, with the kernels written out."""
    radix, rng = RadixSlots(), np.random.default_rng(seed)
    cached = [radix.slots(p) for p in prompts]
    slots = [radix.slots([*p, 1000 + i]) for i, p in enumerate(prompts)]  # and the token being decoded
    shared = naive_groups(cached, break_even)
    num_slots = max(int(s.max()) for s in slots) + 1
    keys, values = rng.normal(size=(2, num_slots, 4))
    query = rng.normal(size=(len(slots), 4))
    found = [
        attend(query[i], keys[s[start:]], values[s[start:]])
        for i, (s, start) in enumerate(zip(slots, shared.private_start.tolist(), strict=True))
    ]
    for level in level_arrays(shared):
        assert len(set(level.queries.tolist())) == len(level.queries) == level.qo_indptr[-1]
        for run in range(len(level.qo_indptr) - 1):
            of_run = level.kv_indices[level.kv_indptr[run] : level.kv_indptr[run + 1]]
            for i in level.queries[level.qo_indptr[run] : level.qo_indptr[run + 1]].tolist():
                found[i] = merge(found[i], attend(query[i], keys[of_run], values[of_run]))
    for i, s in enumerate(slots):
        np.testing.assert_allclose(found[i][0], attend(query[i], keys[s], values[s])[0], atol=1e-9)


def test_two_groups_on_two_levels() -> None:
    """Four requests, one prefix of 2 tokens, two of them share 1 more."""
    prompts = [[1, 1, 2], [1, 1, 2], [1, 1], [1, 1]]
    first, second = level_arrays(naive_groups([RadixSlots().slots(p) for p in prompts], FREE))
    assert first.queries.tolist() == [0, 1, 2, 3]
    assert (first.qo_indptr.tolist(), first.kv_indptr.tolist()) == ([0, 4], [0, 2])
    assert second.queries.tolist() == [0, 1]
    assert (second.qo_indptr.tolist(), second.kv_indptr.tolist()) == ([0, 2], [0, 1])
    assert len(second.kv_indices) == 1
