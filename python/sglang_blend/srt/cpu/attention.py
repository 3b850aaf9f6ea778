"""Attention for the CPU platform: torch_native without its per-request costs, nothing shared.

SGLang's `TorchNativeAttnBackend` (0.5.17) is written to be obvious: per layer and per request it gathers
the KV, and in extend it also runs the queries of the cached prefix. On two cores that made attention half of
a decode step. This subclass computes the same function with
- decode: one gather and one `scaled_dot_product_attention` for each group of requests of similar length;
  the query heads that share a KV head take the place of query positions, so nothing is repeated;
- extend: only the new tokens as queries, with the offset causal mask; KV heads expanded by stride 0;
- index tensors and masks built once per forward instead of once per layer.

Encoder-decoder models, cross attention and sliding windows go to the base class. Where SGLang keeps the
layers with sliding windows in a pool of their own, they are read by the slots of that pool; torch_native
reads them by those of the other pool (0.5.17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch.nn.functional import embedding, scaled_dot_product_attention

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention

# Requests are padded to the longest of their group; a group ends where that would double the work.
_MAX_PADDING_RATIO = 1.5
# ... or where its KV would be gathered into memory that the allocator asks of the kernel anew each time:
# groups of 4,000 tokens took half of the time of groups of 30,000 (demo model, two cores, one layer).
_MOST_GROUP_TOKENS = 4096


class DecodeGroup(NamedTuple):
    """Requests of similar length that share one attention call.

    rows: (g,) int64, positions in the batch. slots: (g * max_len,) int64, KV slots, padded with slot 0.
    mask: (g, 1, 1, max_len) bool, True where a key is real; None when nothing is padded.
    """

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor | None


class ExtendPiece(NamedTuple):
    """The new tokens of one request.

    start, end: range of its queries in the batch. slots: (kv_len,) int64, KV slots of prefix and new tokens.
        Those it reads alone, where runs are shared.
    mask: (extend_len, kv_len) bool, or None where `is_causal` (no prefix) or a single query says it all.
    """

    start: int
    end: int
    slots: torch.Tensor
    mask: torch.Tensor | None
    is_causal: bool


def decode_groups(
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    starts: torch.Tensor | None = None,
) -> list[DecodeGroup]:
    """Cut a decode batch into groups of similar length.

    Args:
        req_to_token: (max_reqs, max_context_len) int32, KV slot of each token.
        req_pool_indices: (bs,) rows of `req_to_token`.
        seq_lens: (bs,) tokens of each request, the one being decoded included.
        starts: (bs,) first token of each request to read; None reads from the beginning.
    """
    lens, order = (seq_lens if starts is None else seq_lens - starts).sort(descending=True)
    lens_list = lens.tolist()
    groups, first = [], 0
    for i in range(1, len(lens_list) + 1):
        is_similar = i < len(lens_list) and lens_list[i] * _MAX_PADDING_RATIO >= lens_list[first]
        if is_similar and (i + 1 - first) * lens_list[first] <= _MOST_GROUP_TOKENS:
            continue
        rows, max_len = order[first:i], lens_list[first]
        real = torch.arange(max_len) < lens[first:i, None]
        if starts is None:
            slots = req_to_token[req_pool_indices[rows], :max_len].long()
        else:
            tokens = (starts[rows, None] + torch.arange(max_len)).masked_fill_(~real, 0)
            slots = req_to_token[req_pool_indices[rows, None], tokens].long()
        mask = None
        if lens_list[i - 1] != max_len:
            slots = slots.masked_fill(~real, 0)
            mask = real[:, None, None, :]
        groups.append(DecodeGroup(rows, slots.reshape(-1), mask))
        first = i
    return groups


def extend_pieces(
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    seq_lens: torch.Tensor,
    prefix_lens: torch.Tensor,
    starts: torch.Tensor | None = None,
) -> list[ExtendPiece]:
    """One piece for each request of an extend batch; arguments as in `decode_groups`, prefix_lens (bs,)."""
    pieces, start = [], 0
    read_from = [0] * len(seq_lens) if starts is None else starts.tolist()
    for row, kv_len, prefix_len, first in zip(
        req_pool_indices.tolist(), seq_lens.tolist(), prefix_lens.tolist(), read_from, strict=True
    ):
        extend_len = kv_len - prefix_len
        mask = None
        if prefix_len > first and extend_len > 1:
            mask = torch.arange(first, kv_len) <= torch.arange(prefix_len, kv_len)[:, None]
        slots = req_to_token[row, first:kv_len].long()
        is_causal = prefix_len == first and extend_len > 1
        pieces.append(ExtendPiece(start, start + extend_len, slots, mask, is_causal))
        start += extend_len
    return pieces


class BatchedAttnBackend(TorchNativeAttnBackend):
    """`--attention-backend blend` with `shared_prefix_attention` off; outputs as torch_native."""

    _in_window_pool = False  # the present layer's KV is in the pool of sliding-window layers

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        super().init_forward_metadata(forward_batch)
        self._decode_groups: list[DecodeGroup] | None = None
        self._extend_pieces: list[ExtendPiece] | None = None
        self._window_rows: torch.Tensor | None = None

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: RadixAttention,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As SGLang's."""
        self._enter(layer)
        return super().forward_extend(q, k, v, layer, *args, **kwargs)

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: RadixAttention,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As SGLang's."""
        self._enter(layer)
        return super().forward_decode(q, k, v, layer, *args, **kwargs)

    def _enter(self, layer: RadixAttention) -> None:
        if self.use_sliding_window_kv_pool:
            self._in_window_pool = self.token_to_kv_pool.layers_mapping[layer.layer_id][1]

    def _slots_of_layer(
        self, req_to_token: torch.Tensor, req_pool_indices: torch.Tensor, seq_lens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`req_to_token` and `req_pool_indices` for the pool that the present layer is in.

        Slots that have left every window are freed and read as slot 0, behind the mask.
        """
        if not self._in_window_pool:
            return req_to_token, req_pool_indices
        if self._window_rows is None:
            rows = req_to_token[req_pool_indices, : int(seq_lens.max())]
            self._window_rows = self.token_to_kv_pool.translate_loc_from_full_to_swa(rows)
        return self._window_rows, torch.arange(len(req_pool_indices))

    def _run_sdpa_forward_decode(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        enable_gqa: bool = False,
        causal: bool = False,
        is_cross_attn: bool = False,
        sliding_window_size: int | None = None,
    ) -> torch.Tensor:
        """query, output: (bs, num_heads, head_dim); see the base class for the rest."""
        is_plain = encoder_lens is None and not is_cross_attn and sliding_window_size is None
        if not is_plain or self._in_window_pool:
            req_to_token, req_pool_indices = self._slots_of_layer(req_to_token, req_pool_indices, seq_lens)
            return super()._run_sdpa_forward_decode(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, encoder_lens,
                scaling, enable_gqa, causal, is_cross_attn, sliding_window_size,
            )  # fmt: skip
        if self._decode_groups is None:
            self._decode_groups = decode_groups(req_to_token, req_pool_indices, seq_lens)
        num_kv_heads = k_cache.shape[1]
        for rows, slots, mask in self._decode_groups:
            # (g, heads, dim) -> (g, kv_heads, heads per kv head, dim): those heads act as query positions.
            q = query[rows].unflatten(1, (num_kv_heads, -1))
            k = gather(k_cache, slots, q.dtype).unflatten(0, (len(rows), -1)).transpose(1, 2)
            v = gather(v_cache, slots, q.dtype).unflatten(0, (len(rows), -1)).transpose(1, 2)
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
            output[rows] = out.flatten(1, 2)
        return output

    def _run_sdpa_forward_extend(
        self,
        query: torch.Tensor,
        output: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        extend_prefix_lens: torch.Tensor,
        extend_seq_lens: torch.Tensor,
        encoder_lens: torch.Tensor | None = None,
        scaling: float | None = None,
        enable_gqa: bool = False,
        causal: bool = False,
        is_cross_attn: bool = False,
        sliding_window_size: int | None = None,
    ) -> torch.Tensor:
        """query, output: (num_new_tokens, num_heads, head_dim); see the base class for the rest."""
        is_plain = encoder_lens is None and not is_cross_attn and causal and sliding_window_size is None
        if not is_plain or self._in_window_pool:
            req_to_token, req_pool_indices = self._slots_of_layer(req_to_token, req_pool_indices, seq_lens)
            return super()._run_sdpa_forward_extend(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens,
                extend_prefix_lens, extend_seq_lens, encoder_lens, scaling, enable_gqa, causal,
                is_cross_attn, sliding_window_size,
            )  # fmt: skip
        if self._extend_pieces is None:
            self._extend_pieces = extend_pieces(req_to_token, req_pool_indices, seq_lens, extend_prefix_lens)
        num_kv_heads = k_cache.shape[1]
        for start, end, slots, mask, is_causal in self._extend_pieces:
            # (new, heads, dim) -> (kv_heads, heads per kv head, new, dim); KV the same, expanded by stride 0.
            q = query[start:end].unflatten(1, (num_kv_heads, -1)).permute(1, 2, 0, 3)
            per_kv_head = (-1, q.shape[1], -1, -1)
            k = gather(k_cache, slots, q.dtype).transpose(0, 1).unsqueeze(1).expand(per_kv_head)
            v = gather(v_cache, slots, q.dtype).transpose(0, 1).unsqueeze(1).expand(per_kv_head)
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, is_causal=is_causal)
            output[start:end] = out.permute(2, 0, 1, 3).flatten(1, 2)
        return output


def gather(cache: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(max_tokens, kv_heads, dim) at `slots` -> (len(slots), kv_heads, dim) in `dtype`.

    `embedding` copies whole rows, 1.3 to 2.5 times as fast here as `index_select` and indexing.
    """
    return embedding(slots, cache.flatten(1)).unflatten(1, cache.shape[1:]).to(dtype)
