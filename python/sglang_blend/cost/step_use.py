"""How long a step keeps the compute units and the memory busy, by the cost model: for the record of a run.

The scheduler calls it at every step, so it is plain arithmetic on a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sglang_blend.cost.roofline import RooflineCost


class StepUse(NamedTuple):
    """Seconds. `compute_s`: linear layers and prefill attention; `kv_read_s`: the KV cache read by decode;
    `weight_read_s`: the weights read once.
    """

    compute_s: float
    kv_read_s: float
    weight_read_s: float


def step_use(
    cost: RooflineCost, prefill: Iterable[tuple[int, int]], num_decode: int, decode_kv_tokens: int
) -> StepUse:
    """Modelled use of one forward pass.

    Args:
        prefill: (cached tokens, tokens computed) of each request in prefill.
        num_decode: requests that decode one token each.
        decode_kv_tokens: tokens in the KV cache of those.

    Every request counts as one that is sampled from, also where a chunk does not end its prompt. With
    windowed layers each counts with the mean length, which is exact while all are longer, or all are
    shorter, than the window.
    """
    full_s, window_s = cost.pair_s
    window = cost.shape.window
    tokens, sampled, attention_s = num_decode, num_decode, 0.0
    for prefix, extend in prefill:
        tokens, sampled = tokens + extend, sampled + 1
        attention_s += extend * (prefix + (extend + 1) / 2) * full_s
        if window is not None:
            attention_s += extend * min(prefix + (extend + 1) / 2, window) * window_s
    read_s, window_read_s = cost.kv_read_s
    kv_read_s = decode_kv_tokens * read_s
    if window is not None and num_decode:
        kv_read_s += num_decode * min(decode_kv_tokens / num_decode, window) * window_read_s
    return StepUse(cost.gemm_s(tokens, sampled) + attention_s, kv_read_s, cost.weight_s(tokens))
