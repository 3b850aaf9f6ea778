"""What the requests that wait and run have still to do, and what was learnt of it since the plan."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from itertools import islice

from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.scheduling.waiting import Waiting

# So many of those that wait tell what all of them are like.
_SAMPLE = 1024


def learnt_density_ratio(waiting: Collection[Waiting]) -> float:
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
    waiting: Iterable[Waiting],
    running: Iterable[Waiting],
    *,
    cost: RooflineCost,
    mem_tokens: int,
    root_density: float,
) -> SplitWork:
    """Compute of prompts, compute and KV reads of decode, and reading the weights for each decode step.

    The prompts of those that wait take what the plan's density says, or their own tokens if those take
    longer: the plan knows who shares, but thinks of the whole job.

    Args:
        mem_tokens: tokens of the KV pool; bounds how many requests a decode step can have.
        root_density: of what waits (compute over memory time); infinite without decode, and then there is
            nothing that prefill would run beside.
    """
    token_s, read_s = cost.token_s, sum(cost.kv_read_s)
    prompt_tokens = output = token_steps = waiting_output = waiting_steps = longest = 0.0
    for request in waiting:
        mean = request.mean_len
        prompt_tokens += max(request.prompt_len - request.shared_len, 1)
        waiting_output += mean
        waiting_steps += mean * (request.prompt_len + mean / 2)
    for request in running:
        generated = request.num_generated
        left = max(request.mean_len - generated, request.mean_len / 8, 1.0)
        output += left
        token_steps += left * (request.prompt_len + generated + left / 2)
        longest = max(longest, left)
    density = 0.0 if math.isinf(root_density) else root_density
    planned_s = density * waiting_steps * read_s - waiting_output * cost.decode_token_s
    steps = max((token_steps + waiting_steps) / mem_tokens, longest, 1.0)
    return SplitWork(
        prefill_s=max(prompt_tokens * token_s, planned_s),
        decode_gemm_s=(output + waiting_output) * cost.decode_token_s,
        weight_read_s=steps * cost.weight_s(1.0),
        kv_read_s=(token_steps + waiting_steps) * read_s,
    )
