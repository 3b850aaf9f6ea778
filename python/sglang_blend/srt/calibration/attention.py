"""Attention at the engine's own kernels: what one prompt's prefill computes, what a decode step reads."""

from __future__ import annotations

from typing import Protocol

import torch

from sglang_blend.srt.calibration.layer import LayerShape
from sglang_blend.srt.calibration.timing import seconds


class AttentionKernels(Protocol):
    """One attention layer on random KV."""

    def prefill(self, num_tokens: int) -> None:
        """Causal attention of one prompt."""
        ...

    def decode(self, batch_size: int, context_len: int) -> None:
        """One decode step of so many requests."""
        ...


def kernels_of(shape: LayerShape, dtype: torch.dtype, device: torch.device) -> AttentionKernels:
    """Those of the platform's default attention backend."""
    if device.type == "cuda":
        from sglang_blend.srt.calibration.cuda_attention import FlashInferKernels

        return FlashInferKernels(shape, dtype, device)
    from sglang_blend.srt.calibration.cpu_attention import CpuKernels

    return CpuKernels(shape, dtype)


def prefill_flop_per_s(
    kernels: AttentionKernels, shape: LayerShape, num_tokens: int, device: torch.device
) -> float:
    """FLOP/s of causal prefill attention, 4 for each pair, head and dimension."""
    pairs = num_tokens * (num_tokens + 1) / 2
    flop = 4 * pairs * shape.heads * shape.head_dim
    return flop / seconds(lambda: kernels.prefill(num_tokens), device)


def decode_bytes_per_s(
    kernels: AttentionKernels, shape: LayerShape, dtype: torch.dtype, batch_size: int, context_len: int,
    device: torch.device,
) -> float:  # fmt: skip
    """KV bytes that decode attention reads a second.

    The difference between the whole and a quarter of the context: what a call costs beside reading counts
    for neither.
    """
    long_s = seconds(lambda: kernels.decode(batch_size, context_len), device)
    short_s = seconds(lambda: kernels.decode(batch_size, context_len // 4), device)
    tokens = batch_size * (context_len - context_len // 4)
    kv_bytes = 2 * shape.kv_heads * shape.head_dim * dtype.itemsize
    return tokens * kv_bytes / max(long_s - short_s, 1e-9)
