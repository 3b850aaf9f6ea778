"""How fast prefill goes beside decode: the token budget of a step, and the division of the GPU.

Both follow from the work that is left, so that compute and KV reads run out together.

Source: the simulation study of this project (there called n*); the paper paces by N_x = M_x / (p + d / 2)
requests of a side and C_x = N_x * p / d of their prompt tokens a step instead, which never fills an empty
pool.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from itertools import islice

from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.scheduling.request_state import RequestState, Work

# Part of the KV pool that the remaining steps are assumed to fill.
_PACED_OCCUPANCY = 0.9
_LEAST_PREFILL_TOKENS = 32
# So many of those that wait tell what all of them are like.
_SAMPLE = 1024


def token_budget(
    *, token_compute_s: float, token_read_s: float, kv_pool_tokens: int, root_density: float
) -> float:
    """n*: tokens a step should process so that compute and KV reads of the rest run out together.

    A job far from its end has steps that are bound by the pool, each reading 0.9 M tokens of KV; then only
    the machine and the density of the rest are left in the formula:

        n* = theta * 0.9 * M * density * token_read_s / token_compute_s

    theta is 0.9 above a density of 1.3, 1.1 below 1, else 1.

    Args:
        token_compute_s: compute time of one token in a GEMM, 2 * P / F, seconds.
        token_read_s: time to read the KV of one token in decode, seconds.
        kv_pool_tokens: M.
        root_density: compute over memory time of what is left.

    Returns:
        Tokens a step, prefill and decode together; 0 or more.
    """
    theta = 0.9 if root_density > 1.3 else 1.1 if root_density < 1.0 else 1.0
    return theta * _PACED_OCCUPANCY * kv_pool_tokens * root_density * token_read_s / token_compute_s


def prefill_tokens(budget: float, num_running: int, chunk_len: int) -> int:
    """Prefill tokens of a step under a token budget: what decode leaves, 32 to `chunk_len`.

    Args:
        budget: n*, tokens.
        num_running: requests that decode in this step; each takes one token.
        chunk_len: largest prefill chunk, tokens.
    """
    return int(min(max(budget - num_running, _LEAST_PREFILL_TOKENS), chunk_len))


def learnt_density_ratio(waiting: Collection[RequestState]) -> float:
    """How many times as dense the waiting requests are as when they were planned, by what is now known of
    output lengths: shorter outputs read less and leave the prompts as they are. 1 where nothing waits.

    Of a long queue every n-th request is asked: this runs between two steps.
    """
    prompt_tokens = planned = output = planned_steps = steps = 0.0
    for request in islice(waiting, 0, None, max(len(waiting) // _SAMPLE, 1)):
        prompt_tokens += max(request.prompt_len - request.shared_len, 1)
        planned += request.planned_len
        planned_steps += request.planned_len * (request.prompt_len + request.planned_len / 2)
        mean = request.mean_len
        output += mean
        steps += mean * (request.prompt_len + mean / 2)
    if not planned_steps or not steps:
        return 1.0
    return (prompt_tokens + output) / (prompt_tokens + planned) * planned_steps / steps


def remaining_work(
    waiting: Work,
    running: Iterable[RequestState],
    *,
    cost: RooflineCost,
    mem_tokens: int,
    root_density: float,
) -> SplitWork:
    """Compute of prompts, compute and KV reads of decode, and reading the weights for each decode step.

    The prompts of those that wait take what the plan's density says, or their own tokens if those take
    longer: the plan knows who shares, but thinks of the whole job.

    Args:
        waiting: what those that wait have to do.
        mem_tokens: tokens of the KV pool; bounds how many requests a decode step can have.
        root_density: of what waits (compute over memory time); infinite without decode, and then there is
            nothing that prefill would run beside.
    """
    token_s, read_s = cost.token_s, sum(cost.kv_read_s)
    output = token_steps = longest = 0.0
    for request in running:
        generated = request.num_generated
        left = max(request.mean_len - generated, request.mean_len / 8, 1.0)
        output += left
        token_steps += left * (request.prompt_len + generated + left / 2)
        longest = max(longest, left)
    density = 0.0 if math.isinf(root_density) else root_density
    planned_s = density * waiting.token_steps * read_s - waiting.output_tokens * cost.decode_token_s
    steps = max((token_steps + waiting.token_steps) / mem_tokens, longest, 1.0)
    return SplitWork(
        prefill_s=max(waiting.prompt_tokens * token_s, planned_s),
        decode_gemm_s=(output + waiting.output_tokens) * cost.decode_token_s,
        weight_read_s=steps * cost.weight_s(1.0),
        kv_read_s=(token_steps + waiting.token_steps) * read_s,
    )
