"""Seconds of compute and of memory traffic, from a model's shape and an accelerator's rates.

`RooflineCost(shape=..., hardware=...)` is the planner's cost model (per request, no sharing) and gives the
simulator its per-step times. With `hardware.at_peak()` and `count_attention=False` it has the paper's
constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.cost.break_even import BreakEven
from sglang_blend.cost.hardware import Hardware
from sglang_blend.cost.measured import GemmCurve, MeasuredRates
from sglang_blend.cost.model_shape import ModelShape
from sglang_blend.errors import ConfigError


def _count_pairs(prefix_len: FloatArray, extend_len: FloatArray) -> FloatArray:
    """Causal (query, visible token) pairs of `extend_len` queries after `prefix_len` cached tokens."""
    return prefix_len * extend_len + extend_len * (extend_len + 1.0) / 2.0


def _count_window_pairs(prefix_len: FloatArray, extend_len: FloatArray, window: float) -> FloatArray:
    """As `_count_pairs`, with each query seeing at most `window` tokens."""
    short = np.clip(window - prefix_len, 0.0, extend_len)  # queries that still see everything
    return _count_pairs(prefix_len, short) + (extend_len - short) * window


@dataclass(frozen=True, kw_only=True)
class RooflineCost:
    """Cost of requests and steps on `tp_size` accelerators that work as one.

    Attributes:
        shape, hardware, tp_size: the model and what it runs on; rates and memory scale with tp_size,
            the time of all-reduces is not modelled.
        gemm_curve: measured seconds of a layer's kernels beside attention; replaces the roofline of the
            weights.
        count_attention: whether prefill attention FLOPs count (the paper leaves them out).
        mem_fraction, reserve_bytes: KV memory is mem_fraction * memory - weights - reserve_bytes per
            accelerator.
        pool_tokens: KV pool in tokens, when it is known; overrides the estimate.
        shared_reads: when it pays to read KV that requests share once a decode step, where attention can
            (`--attention-backend blend`); None reads it for each request.

    Source: BlendServe, arXiv:2411.16102, section 4: Comp(r) = 2 (p + d) P_model / compute and Mem(r) = (p d
    + d^2 / 2) H_kv L 4 / bandwidth. Different here: attention of the prefill is counted, causally (half of
    the paper's 4 p^2 H L); windows cap what a token sees; and decode attention whose FLOPs take longer than
    its reads (MLA) counts that longer time as memory time, since it runs in the same kernel.

    The roofline counts P_model for every token as the paper does. That is too much by the embedding and, for
    prompts, the output layer, about what the kernels between the GEMMs take: with it the effective rates give
    the paper's Table 1. Measured times are those of the decoder layers with these kernels, so there the
    output layer counts by itself, for the tokens that are sampled from (SGLang's LogitsProcessor takes no
    others).
    """

    shape: ModelShape
    hardware: Hardware
    tp_size: int = 1
    gemm_curve: GemmCurve | None = None
    count_attention: bool = True
    mem_fraction: float = 0.9
    reserve_bytes: float = 3e9
    pool_tokens: int | None = None
    shared_reads: BreakEven | None = None

    def __post_init__(self) -> None:
        if self.tp_size < 1:
            raise ConfigError(
                f"tp_size is {self.tp_size}, allowed is a whole number from 1; correct --tp-size."
            )
        if not 0 < self.mem_fraction <= 1:
            raise ConfigError(
                f"mem_fraction is {self.mem_fraction}, allowed is above 0 up to 1; correct "
                "--mem-fraction-static."
            )
        if self.pool_tokens is not None and self.pool_tokens < 1:
            raise ConfigError(
                f"kv pool is {self.pool_tokens} tokens, allowed is 1 or more; correct --max-total-tokens."
            )
        if self.pool_tokens is None and self._kv_memory_bytes() < self.shape.kv_bytes_per_token(self.tp_size):
            raise ConfigError(
                f"{self.shape.name} has {self.shape.weight_bytes / 1e9:.1f} GB of weights and leaves "
                "no room for KV in "
                f"{self.tp_size} x {self.hardware.name} "
                f"({self.tp_size * self.hardware.memory_bytes / 1e9:.1f} GB); "
                "raise tp_size or choose larger hardware."
            )

    def _kv_memory_bytes(self) -> float:
        usable = self.mem_fraction * self.hardware.memory_bytes - self.reserve_bytes
        return usable * self.tp_size - self.shape.weight_bytes

    @property
    def kv_pool_tokens(self) -> int:
        """Tokens of KV that fit beside the weights."""
        if self.pool_tokens is not None:
            return self.pool_tokens
        return int(self._kv_memory_bytes() / self.shape.kv_bytes_per_token(self.tp_size))

    def with_pools(self, num_replicas: int) -> RooflineCost:
        """As one engine with the KV pools of so many, for plans in the time scale of a part of the job.

        Compute and memory time stay those of one replica, so densities do too.
        """
        return replace(self, pool_tokens=num_replicas * self.kv_pool_tokens)

    @property
    def shares_reads(self) -> bool:
        """Whether a decode step reads KV that several requests share once for all of them."""
        return self.shared_reads is not None

    def shared_gain_tokens(self, num_readers: FloatArray, num_tokens: IntArray) -> FloatArray:
        """KV tokens that a decode step saves where so many requests read so many tokens together.

        Args:
            num_readers: (m,) float64, 1 or more.
            num_tokens: (m,) int64.

        Returns:
            (m,) float64, tokens; 0 where it does not pay.
        """
        if self.shared_reads is None:
            return np.zeros(len(num_tokens))
        gain: FloatArray = np.maximum(self.shared_reads.gain_tokens(num_readers, num_tokens), 0.0)
        return gain

    @cached_property
    def flop_per_s(self) -> float:
        """Compute rate of all ranks; doubled on hardware with 8-bit GEMMs when weights are 8-bit."""
        speedup = self.hardware.fp8_speedup if self.shape.weight_bytes_per_param == 1.0 else 1.0
        return self.hardware.effective_flop_per_s * self.tp_size * speedup

    @cached_property
    def bytes_per_s(self) -> float:
        """Memory bandwidth of all ranks."""
        return self.hardware.effective_bytes_per_s * self.tp_size

    @cached_property
    def _curve(self) -> GemmCurve | None:
        """Measured seconds of a layer's linear kernels: of this model, or from the machine's GEMM rates.

        Rates were measured on dense layers, so mixtures of experts keep the roofline.
        """
        measured = self.hardware.measured
        if self.gemm_curve is not None or measured is None or self.shape.num_experts:
            return self.gemm_curve
        return self._curve_of(self.shape.layer_params / self.shape.num_layers, measured)

    @cached_property
    def _head_curve(self) -> GemmCurve | None:
        """Seconds of the output layer by rows, where the layers are measured: at their rates, else by the
        roofline.
        """
        measured = self.hardware.measured
        if self._curve is None:
            return None
        if measured is not None:
            return self._curve_of(self.shape.head_params, measured)
        read_s = self.shape.head_params * self.shape.weight_bytes_per_param / self.bytes_per_s
        row_s = 2.0 * self.shape.head_params / self.flop_per_s
        turn = max(read_s / row_s, 1.0)  # rows from which on it is bound by compute
        seconds = np.array([turn, 2.0 * turn]) * row_s
        return GemmCurve(num_tokens=np.array([turn, 2.0 * turn]), layer_s=seconds, source=self.hardware.name)

    def _curve_of(self, num_params: float, measured: MeasuredRates) -> GemmCurve:
        num_tokens = np.array(measured.gemm_tokens)
        speedup = self.flop_per_s / self.hardware.effective_flop_per_s  # ranks, and 8-bit weights
        seconds = 2.0 * num_params * num_tokens / (np.array(measured.gemm_flop_per_s) * speedup)
        return GemmCurve(num_tokens=num_tokens, layer_s=seconds, source=self.hardware.name)

    @property
    def has_linear_gemms(self) -> bool:
        """Whether the linear layers' time is proportional to the tokens, above the time to read weights."""
        return self._curve is None and not self.shape.num_experts

    @cached_property
    def token_s(self) -> float:
        """Seconds of linear layers per token in a large step; see `decode_token_s` for the output layer."""
        if self._curve is not None:
            return self._curve.token_s * self.shape.num_layers
        return 2.0 * self.shape.active_params / self.flop_per_s

    @cached_property
    def decode_token_s(self) -> float:
        """Seconds of linear layers per token that is sampled from, in a large step."""
        return self.token_s + (self._head_curve.token_s if self._head_curve is not None else 0.0)

    def gemm_s(self, num_tokens: float, num_sampled: float) -> float:
        """Seconds of the linear layers' arithmetic for a step (no floor for reading weights).

        Args:
            num_tokens: of the step.
            num_sampled: of them, those that are sampled from.
        """
        if self._curve is None or self._head_curve is None:
            return num_tokens * self.token_s
        head_s = self._head_curve.seconds(num_sampled) if num_sampled else 0.0
        return self._curve.seconds(num_tokens) * self.shape.num_layers + head_s

    def weight_s(self, num_tokens: float) -> float:
        """Seconds to read the weights that a step of `num_tokens` touches once."""
        if self._curve is not None and self._head_curve is not None:
            return self._curve.floor_s * self.shape.num_layers + self._head_curve.floor_s
        return self.shape.active_weight_bytes(num_tokens) / self.bytes_per_s

    @cached_property
    def _attention_flop_per_s(self) -> float:
        measured = self.hardware.measured
        rate = (
            self.hardware.effective_flop_per_s if measured is None else measured.prefill_attention_flop_per_s
        )
        return rate * self.tp_size  # attention runs in 16 bit whatever the weights are

    @cached_property
    def _kv_read_bytes_per_s(self) -> float:
        measured = self.hardware.measured
        rate = (
            self.hardware.effective_bytes_per_s if measured is None else measured.decode_attention_bytes_per_s
        )
        return rate * self.tp_size

    @cached_property
    def pair_s(self) -> tuple[float, float]:
        """Seconds per (query, visible token) pair of prefill, over the full layers and over the windowed
        ones.
        """
        one = self.shape.prefill_flop_per_pair / self._attention_flop_per_s if self.count_attention else 0.0
        return one * self.shape.num_full_layers, one * self.shape.num_window_layers

    @cached_property
    def kv_read_s(self) -> tuple[float, float]:
        """Seconds per cached token that one decode step reads, over the full layers and over the windowed
        ones.
        """
        read = self.shape.kv_bytes_per_token(self.tp_size) / self.shape.num_layers / self._kv_read_bytes_per_s
        one = max(read, self.shape.decode_flop_per_pair / self._attention_flop_per_s)
        return one * self.shape.num_full_layers, one * self.shape.num_window_layers

    def extend_compute_s(self, prefix_len: IntArray, extend_len: IntArray) -> FloatArray:
        """Compute seconds to extend a cached prefix: linear layers and attention.

        Args:
            prefix_len, extend_len: (n,) int64, tokens.

        Returns:
            (n,) float64, seconds.
        """
        prefix, extend = _lengths("prefix_len", prefix_len), _lengths("extend_len", extend_len)
        full_s, window_s = self.pair_s
        seconds = extend * self.token_s + _count_pairs(prefix, extend) * full_s
        if self.shape.window is not None:
            seconds = seconds + _count_window_pairs(prefix, extend, float(self.shape.window)) * window_s
        return seconds

    def compute_s(self, prompt_len: IntArray, output_len: IntArray) -> FloatArray:
        """Compute seconds of each request, nothing shared: the prompt's prefill and one token per output.

        Args:
            prompt_len, output_len: (n,) int64 (output lengths may be fractional estimates), tokens.

        Returns:
            (n,) float64, seconds.
        """
        prompt = _lengths("prompt_len", prompt_len)
        output = _lengths("output_len", output_len)
        return self.extend_compute_s(np.zeros_like(prompt), prompt) + output * self.decode_token_s  # type: ignore[arg-type]

    def memory_s(self, prompt_len: IntArray | FloatArray, output_len: IntArray) -> FloatArray:
        """Seconds that decode spends reading the KV of each request.

        Args:
            prompt_len, output_len: (n,) int64 (or fractional estimates), tokens.

        Returns:
            (n,) float64, seconds: (p d + d^2 / 2) tokens read, or their windowed count.
        """
        prompt, output = _lengths("prompt_len", prompt_len), _lengths("output_len", output_len)
        full_s, window_s = self.kv_read_s
        seconds = (prompt * output + output * output / 2.0) * full_s
        if self.shape.window is not None:
            window = float(self.shape.window)
            grow = np.clip(window - prompt, 0.0, output)  # steps that still see everything
            seconds = seconds + (prompt * grow + grow * grow / 2.0 + (output - grow) * window) * window_s
        return np.asarray(seconds, dtype=np.float64)


def _lengths(name: str, values: IntArray | FloatArray) -> FloatArray:
    lengths = np.asarray(values, dtype=np.float64)
    if lengths.size and not (np.isfinite(lengths).all() and lengths.min() >= 0):
        bad = lengths[~(np.isfinite(lengths) & (lengths >= 0))].flat[0]
        raise ConfigError(
            f"{name} holds {bad}, allowed are finite numbers of tokens from 0; correct the lengths."
        )
    return lengths
