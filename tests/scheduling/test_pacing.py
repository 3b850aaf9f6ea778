"""Token budget and peak admission."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.naive_peak import peak_tokens
from sglang_blend.scheduling.pacing import prefill_tokens, token_budget


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


@pytest.mark.parametrize(("density", "theta"), [(1.1, 1.0), (2.0, 0.9), (0.5, 1.1)])
def test_the_budget_ends_compute_and_reads_together(density: float, theta: float) -> None:
    """Steps that read a pool filled to 90% each compute their part of what the density says is left."""
    token_s, read_s, pool = 1e-4, 1e-7, 300_000
    token_steps = 50.0 * pool
    steps = token_steps / (0.9 * pool)
    compute_tokens = density * read_s * token_steps / token_s
    budget = token_budget(
        token_compute_s=token_s, token_read_s=read_s, kv_pool_tokens=pool, root_density=density
    )
    assert budget == pytest.approx(theta * compute_tokens / steps)


def test_prefill_takes_what_decode_leaves() -> None:
    """Between 32 tokens and the chunk."""
    assert prefill_tokens(500.0, 100, 2048) == 400
    assert prefill_tokens(100.0, 100, 2048) == 32
    assert prefill_tokens(9000.0, 100, 2048) == 2048
