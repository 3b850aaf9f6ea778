"""The steps of a simulated engine, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray

# In the order of `Timeline`'s columns.
StepRow = tuple[float, int, int, int, int, int, int, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One row a recorded step: seconds at its end, requests in the decode batch, prefill tokens, pool tokens
    in use, steps it stands for, tokens decoded, requests not started, and how many seconds the step needs of
    compute, of KV reads and of weight reads. `left_ratio`: share (0 to 1) of the KV tokens read that belong
    to requests of the left side; None where the schedule has no sides.
    """

    end_s: FloatArray
    batch_size: IntArray
    prefill_tokens: IntArray
    tokens_in_use: IntArray
    num_steps: IntArray
    decode_tokens: IntArray
    num_waiting: IntArray
    compute_s: FloatArray
    kv_read_s: FloatArray
    weight_read_s: FloatArray
    left_ratio: FloatArray | None = None

    @classmethod
    def of(cls, rows: list[StepRow], *, has_sides: bool) -> Timeline:
        """From the rows of an engine, in the order of time."""
        columns = np.array(rows, dtype=np.float64).reshape(-1, 11)
        whole = columns[:, 1:7].astype(np.int64)
        return cls(
            end_s=columns[:, 0],
            batch_size=whole[:, 0],
            prefill_tokens=whole[:, 1],
            tokens_in_use=whole[:, 2],
            num_steps=whole[:, 3],
            decode_tokens=whole[:, 4],
            num_waiting=whole[:, 5],
            compute_s=columns[:, 7],
            kv_read_s=columns[:, 8],
            weight_read_s=columns[:, 9],
            left_ratio=columns[:, 10] if has_sides else None,
        )
