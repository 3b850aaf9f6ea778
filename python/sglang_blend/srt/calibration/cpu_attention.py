"""Attention of the CPU platform, as `BatchedAttnBackend` runs it."""

from __future__ import annotations

import torch

from sglang_blend.srt.calibration.layer import LayerShape
from sglang_blend.srt.cpu.attention import BatchedAttnBackend

_NUM_SLOTS = 65_536


class CpuKernels:
    """One layer of `BatchedAttnBackend` on slots in the order of the radix cache."""

    def __init__(self, shape: LayerShape, dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        size = (_NUM_SLOTS, shape.kv_heads, shape.head_dim)
        self._k, self._v = (torch.randn(size).to(dtype) for _ in range(2))
        self._scale = shape.head_dim**-0.5
        self._queries: dict[int, torch.Tensor] = {}  # by rows: made once, so that making them is not timed

    def prefill(self, num_tokens: int) -> None:
        """Causal attention of one prompt."""
        backend = self._backend()
        query = self._query(num_tokens)
        lens = torch.tensor([num_tokens])
        backend._run_sdpa_forward_extend(
            query, torch.empty_like(query), self._k, self._v, self._table(1, num_tokens), torch.arange(1),
            lens, torch.zeros(1, dtype=torch.int64), lens, scaling=self._scale, causal=True,
        )  # fmt: skip

    def decode(self, batch_size: int, context_len: int) -> None:
        """One decode step of so many requests."""
        query = self._query(batch_size)
        self._backend()._run_sdpa_forward_decode(
            query, torch.empty_like(query), self._k, self._v, self._table(batch_size, context_len),
            torch.arange(batch_size), torch.full((batch_size,), context_len), scaling=self._scale,
        )  # fmt: skip

    def _query(self, rows: int) -> torch.Tensor:
        if rows not in self._queries:
            query = torch.randn(rows, self._shape.heads, self._shape.head_dim)
            self._queries[rows] = query.to(self._dtype)
        return self._queries[rows]

    def _table(self, rows: int, length: int) -> torch.Tensor:
        return (torch.arange(rows * length, dtype=torch.int32) % _NUM_SLOTS).view(rows, length)

    def _backend(self) -> BatchedAttnBackend:
        # Its constructor wants a model runner, of which these two methods need nothing.
        backend = object.__new__(BatchedAttnBackend)
        backend._decode_groups = backend._extend_pieces = None
        return backend
