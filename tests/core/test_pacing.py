"""Token budget and peak admission."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.core.pacing import full_pool_budget, peak_tokens, prefill_tokens, token_budget


@given(
    requests=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60)), max_size=12),
    shared=st.integers(0, 100),
)
@settings(max_examples=200, deadline=None)
def test_peak_is_the_most_that_a_step_by_step_run_holds(requests: list[tuple[int, int]], shared: int) -> None:
    """Grow every request a token a step until it ends: the formula gives the same peak."""
    context, remaining = (
        np.array(column, np.int64) for column in (zip(*requests, strict=True) if requests else ([], []))
    )
    held = [
        sum(c + step for c, r in requests if r >= step)
        for step in range(max([r for _, r in requests] + [0]) + 1)
    ]
    assert peak_tokens(context, remaining, shared) == max(held) + shared


def test_budget_spreads_the_compute_over_the_steps_that_memory_needs() -> None:
    """900k token-steps in a pool of 1,000 at 90% take 1,000 steps; the compute in them is 50k tokens."""
    budget = {
        "remaining_compute_s": 5.0,
        "token_compute_s": 1e-4,
        "remaining_token_steps": 900_000.0,
        "longest_remaining_len": 10.0,
        "kv_pool_tokens": 1000,
    }
    assert token_budget(**budget, root_density=1.1) == pytest.approx(50)
    assert token_budget(**budget, root_density=2.0) == pytest.approx(45)
    assert token_budget(**budget, root_density=0.5) == pytest.approx(55)
    assert token_budget(**(budget | {"longest_remaining_len": 2000.0}), root_density=1.1) == pytest.approx(25)


def test_prefill_takes_what_decode_leaves() -> None:
    """Between 32 tokens and the chunk."""
    assert prefill_tokens(500.0, 100, 2048) == 400
    assert prefill_tokens(100.0, 100, 2048) == 32
    assert prefill_tokens(9000.0, 100, 2048) == 2048


def test_far_from_the_end_the_budget_follows_from_machine_and_density_alone() -> None:
    """The same number as with sums over a large job of that density."""
    density, token_s, read_s, pool = 1.1, 1e-4, 1e-7, 300_000
    steps = 50.0 * pool
    whole_job = token_budget(
        remaining_compute_s=density * read_s * steps,
        token_compute_s=token_s,
        remaining_token_steps=steps,
        longest_remaining_len=20.0,
        kv_pool_tokens=pool,
        root_density=density,
    )
    budget = full_pool_budget(
        token_compute_s=token_s, token_read_s=read_s, kv_pool_tokens=pool, root_density=density
    )
    assert budget == pytest.approx(whole_job)
    assert budget == pytest.approx(0.9 * density * pool * read_s / token_s)
