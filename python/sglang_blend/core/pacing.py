"""Two formulas that keep a blended run in balance: the token budget of a step, and the peak of memory.

Both are pure and cheap, for the scheduler to call every few steps. Source: the simulation study of this
project (there called n* and peak admission); the paper paces by N_x = M_x / (p + d / 2) requests of a side
and C_x = N_x * p / d of their prompt tokens a step instead, which never fills an empty pool.
"""

from __future__ import annotations

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray

# Part of the KV pool that the remaining steps are assumed to fill.
_PACED_OCCUPANCY = 0.9
_LEAST_PREFILL_TOKENS = 32


def token_budget(
    *,
    remaining_compute_s: float,
    token_compute_s: float,
    remaining_token_steps: float,
    longest_remaining_len: float,
    kv_pool_tokens: int,
    root_density: float,
) -> float:
    """n*: tokens a step should process so that compute and KV reads run out together.

        steps = max(remaining_token_steps / (0.9 * M), longest_remaining_len)
        n*    = theta * (remaining_compute_s / token_compute_s) / steps

    theta is 0.9 above a density of 1.3, 1.1 below 1, else 1. All sums run over queued and running requests.

    Args:
        remaining_compute_s: compute time left, seconds.
        token_compute_s: compute time of one token in a GEMM, 2 * P / F, seconds.
        remaining_token_steps: sum of context times remaining steps, `p * d + d^2 / 2`, tokens.
        longest_remaining_len: of a running request, tokens.
        kv_pool_tokens: M.
        root_density: of the job.

    Returns:
        Tokens a step, prefill and decode together; above 0.
    """
    theta = 0.9 if root_density > 1.3 else 1.1 if root_density < 1.0 else 1.0
    steps = max(remaining_token_steps / (_PACED_OCCUPANCY * kv_pool_tokens), longest_remaining_len, 1.0)
    return theta * (remaining_compute_s / token_compute_s) / steps


def full_pool_budget(
    *, token_compute_s: float, token_read_s: float, kv_pool_tokens: int, root_density: float
) -> float:
    """n* of a job far from its end: as `token_budget` while steps are bound by the pool, not by one request.

    Then compute and token-steps stay in the root's proportion, and only the machine and the root's density
    are left in the formula. For a scheduler, which sees a window of the job.

    Args:
        token_compute_s: compute time of one token in a GEMM, seconds.
        token_read_s: time to read the KV of one token in decode, seconds.
        kv_pool_tokens: M.
        root_density: of the job.

    Returns:
        Tokens a step, prefill and decode together; above 0.
    """
    return token_budget(
        remaining_compute_s=root_density * token_read_s * kv_pool_tokens,
        token_compute_s=token_compute_s,
        remaining_token_steps=kv_pool_tokens,
        longest_remaining_len=0.0,
        kv_pool_tokens=kv_pool_tokens,
        root_density=root_density,
    )


def prefill_tokens(budget: float, num_running: int, chunk_len: int) -> int:
    """Prefill tokens of a step under a token budget: what decode leaves, 32 to `chunk_len`.

    Args:
        budget: n*, tokens.
        num_running: requests that decode in this step; each takes one token.
        chunk_len: largest prefill chunk, tokens.
    """
    return int(min(max(budget - num_running, _LEAST_PREFILL_TOKENS), chunk_len))


def peak_tokens(context_len: IntArray, remaining_len: FloatArray | IntArray, shared_len: int = 0) -> float:
    """Most KV tokens that running requests will hold at once, if each ends when expected.

    With the requests sorted by falling remaining length, just before the k-th longest ends it and the k - 1
    longer ones have grown by its remaining length: `max_k(sum_{i<=k} context_i + k * remaining_k)`.

    Args:
        context_len: (r,) int64, KV tokens each request holds now, shared prefixes left out.
        remaining_len: (r,) tokens each is expected to add.
        shared_len: tokens of shared prefixes that are held anyway.

    Returns:
        Tokens; `shared_len` when nothing runs.
    """
    if len(context_len) == 0:
        return float(shared_len)
    longest_first = np.argsort(-np.asarray(remaining_len), kind="stable")
    held = np.cumsum(context_len[longest_first])
    grown = np.arange(1, len(held) + 1) * np.asarray(remaining_len)[longest_first]
    return float((held + grown).max()) + shared_len
