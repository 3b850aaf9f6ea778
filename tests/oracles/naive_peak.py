"""The peak of memory by its formula, over all that runs: what `scheduling.peak.ExpectedPeak` must answer."""

from __future__ import annotations

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray


def peak_tokens(context_len: IntArray, remaining_len: FloatArray | IntArray, shared_len: int = 0) -> float:
    """Most KV tokens that running requests will hold at once, if each ends when expected.

    With the requests sorted by falling remaining length, just before the k-th longest ends it and the k - 1
    longer ones have grown by its remaining length: `max_k(sum_{i<=k} context_i + k * remaining_k)`.
    """
    if len(context_len) == 0:
        return float(shared_len)
    longest_first = np.argsort(-np.asarray(remaining_len), kind="stable")
    held = np.cumsum(context_len[longest_first])
    grown = np.arange(1, len(held) + 1) * np.asarray(remaining_len)[longest_first]
    return float((held + grown).max()) + shared_len
