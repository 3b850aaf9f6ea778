"""What the requests that wait and run have still to do, as seconds of a device."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sglang_blend.perf.roofline import RooflineCost
from sglang_blend.perf.sm_split import SplitWork
from sglang_blend.scheduling.waiting import Waiting


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
        root_density: of what waits, as planned (compute over memory time); infinite without decode, and then
            there is nothing that prefill would run beside.
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
    planned_s = density * waiting_steps * read_s - waiting_output * token_s
    steps = max((token_steps + waiting_steps) / mem_tokens, longest, 1.0)
    return SplitWork(
        prefill_s=max(prompt_tokens * token_s, planned_s),
        decode_gemm_s=(output + waiting_output) * token_s,
        weight_read_s=steps * cost.weight_s(1.0),
        kv_read_s=(token_steps + waiting_steps) * read_s,
    )
