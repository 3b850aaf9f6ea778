"""Attention on NVIDIA GPUs: FlashInfer's paged kernels (fa2) as SGLang's backend of that name runs them.

Has not run on a GPU yet; the arrays were checked with stand-ins for the kernels. FlashInfer 0.6:
`BatchDecodeWithPagedKVCacheWrapper`, `BatchPrefillWithPagedKVCacheWrapper`. One module serves both where
decode runs on tensor cores, so nothing more has to be compiled than an engine needs.
"""

from __future__ import annotations

import flashinfer
import torch
from sglang.srt.layers.attention.flashinfer_backend import should_use_tensor_core

from sglang_blend.srt.calibration.layer import LayerShape

_WORKSPACE_BYTES = 512 * 2**20
_NUM_SLOTS = 600_000


class FlashInferKernels:
    """One layer on KV in pages of one token, in random places."""

    def __init__(self, shape: LayerShape, dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        size = (_NUM_SLOTS, 1, shape.kv_heads, shape.head_dim)
        self._kv = tuple(torch.randn(size, device=device, dtype=dtype) for _ in range(2))
        workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        tensor_cores = should_use_tensor_core(
            kv_cache_dtype=dtype, num_attention_heads=shape.heads, num_kv_heads=shape.kv_heads
        )
        self._prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend="fa2")
        self._decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", backend="fa2", use_tensor_cores=tensor_cores
        )
        self._prompt_len = 0
        self._decode_sizes = (0, 0)

    def prefill(self, num_tokens: int) -> None:
        """Causal attention of one prompt; planned once for the same length."""
        if self._prompt_len != num_tokens:
            self._prompt_query = self._query(num_tokens)
            ends = torch.tensor([0, num_tokens], dtype=torch.int32, device=self._device)
            self._prefill.plan(
                ends, ends, *self._pages(1, num_tokens),
                self._shape.heads, self._shape.kv_heads, self._shape.head_dim, 1,
                causal=True, q_data_type=self._dtype, kv_data_type=self._dtype,
            )  # fmt: skip
            self._prompt_len = num_tokens
        self._prefill.run(self._prompt_query, self._kv)

    def decode(self, batch_size: int, context_len: int) -> None:
        """One decode step of so many requests; planned once for the same sizes."""
        if self._decode_sizes != (batch_size, context_len):
            self._decode_query = self._query(batch_size)
            ends = torch.arange(batch_size + 1, dtype=torch.int32, device=self._device) * context_len
            self._decode.plan(
                ends, *self._pages(batch_size, context_len),
                self._shape.heads, self._shape.kv_heads, self._shape.head_dim, 1,
                q_data_type=self._dtype, kv_data_type=self._dtype,
            )  # fmt: skip
            self._decode_sizes = (batch_size, context_len)
        self._decode.run(self._decode_query, self._kv)

    def _pages(self, num_requests: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of all requests, and the length of each one's last page."""
        total = num_requests * length
        assert total <= _NUM_SLOTS, f"{total} tokens do not fit {_NUM_SLOTS} slots"
        slots = torch.randperm(_NUM_SLOTS, device=self._device)[:total].int()
        return slots, torch.ones(num_requests, dtype=torch.int32, device=self._device)

    def _query(self, rows: int) -> torch.Tensor:
        return torch.randn(
            rows, self._shape.heads, self._shape.head_dim, device=self._device, dtype=self._dtype
        )
