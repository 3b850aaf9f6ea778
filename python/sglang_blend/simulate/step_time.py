"""How long a step takes: compute, weight reads and KV reads, in sequence, overlapped or side by side.

One `StepTimer` per simulation. `step_s` times one step, `decode_run_s` many decode steps of an unchanged
batch in closed form, `muxed_decode_s` and `muxed_prefill_s` the two sides of PD-multiplexing.
"""

from __future__ import annotations

from typing import NamedTuple

from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.simulate.engine_config import EngineConfig


class KvRead(NamedTuple):
    """Tokens that a decode step reads, and by how much that grows with each step."""

    full: float
    windowed: float
    full_growth: float
    windowed_growth: float


class StepTimer:
    """Step times of one engine on one cost model."""

    def __init__(self, cost: RooflineCost, config: EngineConfig) -> None:
        self._cost = cost
        self._overlapped = config.mode == "overlap"
        self._interference = config.interference
        self._overhead_s = config.step_overhead_s
        self._bandwidth_gain = config.pdmux_bandwidth_gain
        self._contention, self._prefill_contention = config.pdmux_contention, config.pdmux_prefill_contention
        self._full_read_s, self._window_read_s = cost.kv_read_s
        self._full_pair_s, self._window_pair_s = cost.pair_s
        self._window = float(cost.shape.window or 0)
        self._dense = cost.has_linear_gemms
        self._weight_s = cost.weight_s(1.0)
        self._token_s = cost.token_s

    def attention_s(self, prefix_len: int, extend_len: int) -> float:
        """Attention compute of `extend_len` prompt tokens after `prefix_len` cached ones, seconds."""
        seconds = (prefix_len * extend_len + extend_len * (extend_len + 1) / 2.0) * self._full_pair_s
        if self._window:
            short = min(max(self._window - prefix_len, 0.0), extend_len)
            pairs = prefix_len * short + short * (short + 1.0) / 2.0 + (extend_len - short) * self._window
            seconds += pairs * self._window_pair_s
        return seconds

    def kv_s(self, read: KvRead) -> float:
        """Seconds of KV reads of one decode step."""
        return read.full * self._full_read_s + read.windowed * self._window_read_s

    def gemm_s(self, num_tokens: int, num_sampled: int) -> float:
        """Seconds of the linear layers' arithmetic, of the output layer for those that are sampled from."""
        if self._dense:
            return num_tokens * self._token_s
        return self._cost.gemm_s(num_tokens, num_sampled)

    def weight_s(self, num_tokens: int) -> float:
        """Seconds of reading the weights once."""
        return self._weight_s if self._dense else self._cost.weight_s(num_tokens)

    def step_s(self, num_tokens: int, num_sampled: int, attention_s: float, kv_s: float) -> float:
        """Seconds of one step.

        Args:
            num_tokens: prefill and decode together.
            num_sampled: those of decode, and the last one of each prompt that is complete.
            attention_s: of prefill.
            kv_s: KV reads of decode.
        """
        gemm, weights = self.gemm_s(num_tokens, num_sampled), self.weight_s(num_tokens)
        if self._overlapped:
            return self._blend(gemm + attention_s, weights + kv_s) + self._overhead_s
        return max(gemm, weights) + attention_s + kv_s + self._overhead_s

    def _blend(self, compute_s: float, memory_s: float) -> float:
        big, small = (compute_s, memory_s) if compute_s > memory_s else (memory_s, compute_s)
        return big + self._interference * small

    def decode_run_s(self, num_steps: int, batch_size: int, read: KvRead) -> float:
        """Seconds of `num_steps` decode steps of the same batch, whose KV grows by `read`'s growth each
        step.
        """
        gemm, weights = self.gemm_s(batch_size, batch_size), self.weight_s(batch_size)
        first = self.kv_s(read)
        growth = read.full_growth * self._full_read_s + read.windowed_growth * self._window_read_s
        kv_sum = num_steps * first + growth * num_steps * (num_steps - 1) / 2.0
        if not self._overlapped:
            return num_steps * (max(gemm, weights) + self._overhead_s) + kv_sum
        # Memory grows from weights + first; it passes compute at most once.
        memory_sum = num_steps * weights + kv_sum
        if weights + first >= gemm:
            below = 0
        elif growth <= 0.0:
            below = num_steps
        else:
            below = min(num_steps, int((gemm - weights - first) / growth) + 1)
        below_sum = below * (weights + first) + growth * below * (below - 1) / 2.0
        above_sum, above = memory_sum - below_sum, num_steps - below
        blended = (
            below * gemm + self._interference * below_sum + above_sum + self._interference * above * gemm
        )
        return blended + num_steps * self._overhead_s

    def muxed_decode_s(self, batch_size: int, read: KvRead, split: float) -> float:
        """Seconds of one decode step on a share `split` of the multiprocessors beside prefill."""
        bandwidth = min(1.0, self._bandwidth_gain * split)
        gemm = max(self.gemm_s(batch_size, batch_size) / split, self.weight_s(batch_size) / bandwidth)
        return (gemm + self.kv_s(read) / bandwidth) * self._contention + self._overhead_s

    def muxed_prefill_s(self, num_tokens: int, attention_s: float, split: float) -> float:
        """Seconds of prefill on the other share of the multiprocessors (no floor for weights: chunks are
        large).
        """
        return (num_tokens * self._token_s + attention_s) / (1.0 - split) * self._prefill_contention
