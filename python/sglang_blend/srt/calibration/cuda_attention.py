"""Attention on NVIDIA GPUs: FlashInfer's kernels as SGLang's backend of that name runs them.

Has not run on a GPU yet. FlashInfer 0.6: `BatchDecodeWithPagedKVCacheWrapper` (tensor cores where query heads
share KV heads, page size 1), `single_prefill_with_kv_cache`.
"""

from __future__ import annotations

import flashinfer
import torch

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
        self._decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_tensor_cores=shape.heads // shape.kv_heads >= 4
        )
        self._planned: tuple[int, int] | None = None
        self._query = torch.empty(0)

    def prefill(self, num_tokens: int) -> None:
        """Causal attention of one prompt."""
        if self._query.shape[0] != num_tokens:
            self._query = self._random(num_tokens, self._shape.heads)
            self._prompt = [self._random(num_tokens, self._shape.kv_heads) for _ in range(2)]
        flashinfer.single_prefill_with_kv_cache(self._query, *self._prompt, causal=True)

    def decode(self, batch_size: int, context_len: int) -> None:
        """One decode step of so many requests; planned once for the same sizes."""
        if self._planned != (batch_size, context_len):
            self._plan(batch_size, context_len)
        self._decode.run(self._decode_query, self._kv)

    def _plan(self, batch_size: int, context_len: int) -> None:
        total = batch_size * context_len
        assert total <= _NUM_SLOTS, f"{total} tokens do not fit {_NUM_SLOTS} slots"
        self._decode_query = self._random(batch_size, self._shape.heads)
        indptr = torch.arange(batch_size + 1, dtype=torch.int32, device=self._device) * context_len
        slots = torch.randperm(_NUM_SLOTS, device=self._device)[:total].int()
        ones = torch.ones(batch_size, dtype=torch.int32, device=self._device)
        self._decode.plan(
            indptr, slots, ones, self._shape.heads, self._shape.kv_heads, self._shape.head_dim, 1,
            q_data_type=self._dtype, kv_data_type=self._dtype,
        )  # fmt: skip
        self._planned = (batch_size, context_len)

    def _random(self, rows: int, heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, self._shape.head_dim, device=self._device, dtype=self._dtype)
