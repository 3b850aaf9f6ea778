"""`--attention-backend blend` on the CPU platform: KV that several requests share is read once a step.

A request's KV is cut into runs that others read too and a private part (`sglang_blend.attention`). The
queries of a run's readers are stacked and attend to it in one call; each request attends to its private part
as in `BatchedAttnBackend`; the results are merged by log-sum-exp:

    out = out_1 + w (out_2 - out_1),   w = sigmoid(lse_2 - lse_1),   lse = log(exp(lse_1) + exp(lse_2))

In decode every request brings one query, in extend those of its new tokens, whose causal part is private.
Batches that share nothing worth it, and what `BatchedAttnBackend` leaves to SGLang, run as there.

Needs from torch the CPU flash attention that `scaled_dot_product_attention` uses itself, because it also
returns the log-sum-exp (torch 2.11: `aten::_scaled_dot_product_flash_attention_for_cpu`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from sglang_blend.attention.decode_groups import DecodeGroups
from sglang_blend.attention.prefix_forest import PrefixForest
from sglang_blend.attention.read_counts import CountsReads, ReadCounts
from sglang_blend.attention.shared_runs import SharedRuns
from sglang_blend.cost.break_even import CPU, BreakEven
from sglang_blend.srt.cpu.attention import (
    BatchedAttnBackend,
    DecodeGroup,
    ExtendPiece,
    decode_groups,
    extend_pieces,
    gather,
)

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

# An extend merges the result of every new token.
_EXTEND_TOKENS_PER_QUERY = 4.0


# Queries that attend to a run in one call, so that what lies between the steps stays in the cores' caches.
_MOST_QUERIES = 512


class RunCall(NamedTuple):
    """One call for one run: `slots` (s,) int64, and which part [first, last) of its level's queries."""

    slots: torch.Tensor
    first: int
    last: int


class Level(NamedTuple):
    """The runs of one level. `queries`: (n,) int64, rows of the query, those of each run together."""

    queries: torch.Tensor
    calls: list[RunCall]


class DecodePlan(NamedTuple):
    """What a decode step reads: private parts, then runs level by level."""

    private: list[DecodeGroup]
    levels: list[Level]


class ExtendPlan(NamedTuple):
    """What an extend reads."""

    private: list[ExtendPiece]
    levels: list[Level]


def levels_of(runs: SharedRuns, first_query: np.ndarray) -> list[Level]:
    """The runs as calls.

    Args:
        runs: what the batch shares.
        first_query: (bs + 1,) int64, where each request's queries begin, and their number.
    """
    levels = []
    for of_level in runs.levels():
        queries, calls, first = [], [], 0
        for run in of_level:
            queries += [np.arange(first_query[r], first_query[r + 1]) for r in run.readers.tolist()]
            last = first + int((first_query[run.readers + 1] - first_query[run.readers]).sum())
            calls.append(RunCall(torch.from_numpy(run.slots.astype(np.int64)), first, last))
            first = last
        levels.append(Level(torch.from_numpy(np.concatenate(queries)), calls))
    return levels


def extend_runs(
    req_to_token: torch.Tensor,
    req_pool_indices: torch.Tensor,
    prefix_lens: torch.Tensor,
    num_queries: int,
) -> SharedRuns:
    """Which cached prefixes the requests of an extend batch share; arguments as in `extend_pieces`."""
    bs = len(prefix_lens)
    forest = PrefixForest(
        BreakEven(
            group_tokens=CPU.group_tokens,
            reader_tokens=_EXTEND_TOKENS_PER_QUERY * num_queries / max(bs, 1),
        )
    )
    table = req_to_token.numpy()
    if bs > 1:
        for i, (row, length) in enumerate(zip(req_pool_indices.tolist(), prefix_lens.tolist(), strict=True)):
            forest.join(i, table[row, :length].copy())
        return forest.shared_runs(np.arange(bs))
    return SharedRuns((), np.zeros(bs, np.int64))


class SharedPrefixAttnBackend(BatchedAttnBackend, CountsReads):
    """`--attention-backend blend` on the CPU platform; outputs as torch_native up to rounding."""

    _settle_late = False

    def __init__(self, model_runner: ModelRunner, break_even: BreakEven = CPU) -> None:
        super().__init__(model_runner)
        self._settle_late = not model_runner.server_args.disable_overlap_schedule
        self.start_sharing(break_even)

    def start_sharing(self, break_even: BreakEven) -> None:
        """Begin with an empty batch."""
        self.read_counts = ReadCounts()
        self._groups = DecodeGroups(break_even, settle_late=self._settle_late)
        self._runs: SharedRuns | None = None
        self._levels: list[Level] = []
        self._decode_plan: DecodePlan | None = None
        self._extend_plan: ExtendPlan | None = None

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        super().init_forward_metadata(forward_batch)
        self._decode_plan = self._extend_plan = None
        if forward_batch.forward_mode.is_extend():
            self._groups.on_prefill(forward_batch.req_pool_indices.numpy())

    def plan_decode(
        self, req_to_token: torch.Tensor, req_pool_indices: torch.Tensor, seq_lens: torch.Tensor
    ) -> DecodePlan:
        """What the step reads; the same for every layer."""
        rows, lens, table = req_pool_indices.numpy(), seq_lens.numpy(), req_to_token.numpy()
        runs = self._groups.update(
            rows.astype(np.int64),
            lens.astype(np.int64),
            lambda at: [table[rows[i], : lens[i] - 1].copy() for i in at.tolist()],
        )
        if runs is not self._runs:
            self._runs = runs
            self._levels = levels_of(runs, np.arange(len(rows) + 1))
        self.read_counts.add_decode(int(lens.sum()), runs)
        starts = torch.from_numpy(runs.private_start) if runs.runs else None
        return DecodePlan(decode_groups(req_to_token, req_pool_indices, seq_lens, starts), self._levels)

    def plan_extend(
        self,
        req_to_token: torch.Tensor,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        prefix_lens: torch.Tensor,
    ) -> ExtendPlan:
        """What the forward pass reads; the same for every layer."""
        extend_lens = (seq_lens - prefix_lens).numpy()
        first_query = np.append(0, np.cumsum(extend_lens))
        runs = extend_runs(req_to_token, req_pool_indices, prefix_lens, int(first_query[-1]))
        self.read_counts.add_extend(int(seq_lens.sum()), runs)
        starts = torch.from_numpy(runs.private_start)
        return ExtendPlan(
            extend_pieces(req_to_token, req_pool_indices, seq_lens, prefix_lens, starts),
            levels_of(runs, first_query),
        )

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
        """query, output: (bs, num_heads, head_dim); see SGLang's class for the rest."""
        plan = None
        is_shareable = _shareable(query, v_cache, encoder_lens, is_cross_attn, sliding_window_size)
        if is_shareable and not self._in_window_pool:
            if self._decode_plan is None:
                self._decode_plan = self.plan_decode(req_to_token, req_pool_indices, seq_lens)
            plan = self._decode_plan
            if not plan.levels:
                self._decode_groups = plan.private
        if plan is None or not plan.levels:
            return super()._run_sdpa_forward_decode(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, encoder_lens,
                scaling, enable_gqa, causal, is_cross_attn, sliding_window_size,
            )  # fmt: skip
        merged = _Merged(query, k_cache, v_cache, scaling)
        for rows, slots, mask in plan.private:
            merged.put_decode(rows, slots, mask)
        merged.add(plan.levels)
        return output.copy_(merged.out.flatten(1, 2))

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
        """query, output: (num_new_tokens, num_heads, head_dim); see SGLang's class for the rest."""
        plan = None
        is_shareable = _shareable(query, v_cache, encoder_lens, is_cross_attn, sliding_window_size)
        if causal and is_shareable and not self._in_window_pool:
            if self._extend_plan is None:
                self._extend_plan = self.plan_extend(
                    req_to_token, req_pool_indices, seq_lens, extend_prefix_lens
                )
            plan = self._extend_plan
            if not plan.levels:
                self._extend_pieces = plan.private
        if plan is None or not plan.levels:
            return super()._run_sdpa_forward_extend(
                query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens,
                extend_prefix_lens, extend_seq_lens, encoder_lens, scaling, enable_gqa, causal,
                is_cross_attn, sliding_window_size,
            )  # fmt: skip
        merged = _Merged(query, k_cache, v_cache, scaling)
        for piece in plan.private:
            merged.put_extend(piece)
        merged.add(plan.levels)
        return output.copy_(merged.out.flatten(1, 2))


def _shareable(
    query: torch.Tensor,
    v_cache: torch.Tensor,
    encoder_lens: torch.Tensor | None,
    is_cross_attn: bool,
    sliding_window_size: int | None,
) -> bool:
    """Whether the layer is plain self-attention, whose KV begins at the first token, in one head size."""
    plain = encoder_lens is None and not is_cross_attn and sliding_window_size is None
    return plain and query.shape[-1] == v_cache.shape[-1]


class _Merged:
    """Attention of one layer, put together part by part.

    out: (num_queries, kv_heads, heads per kv head, head_dim) float32, of the parts so far.
    lse: (num_queries, kv_heads, heads per kv head) float32, their log-sum-exp.
    """

    def __init__(
        self,
        query: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        scaling: float | None,
    ) -> None:
        self._query = query.unflatten(1, (k_cache.shape[1], -1))
        self._k_cache, self._v_cache, self._scaling = k_cache, v_cache, scaling
        self.out = torch.empty(self._query.shape, dtype=torch.float32)
        self.lse = torch.empty(self._query.shape[:-1], dtype=torch.float32)

    def put_decode(self, rows: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The first part of these requests; arguments as in `DecodeGroup`."""
        q = self._query[rows]
        k = self._keys(slots).unflatten(0, (len(rows), -1)).transpose(1, 2)
        v = self._values(slots).unflatten(0, (len(rows), -1)).transpose(1, 2)
        out, lse = self._attend(q, k, v, mask)
        self.out[rows], self.lse[rows] = out.float(), lse

    def put_extend(self, piece: ExtendPiece) -> None:
        """The first part of one request's new tokens."""
        q = self._query[piece.start : piece.end].permute(1, 2, 0, 3)
        per_kv_head = (-1, q.shape[1], -1, -1)
        k = self._keys(piece.slots).transpose(0, 1).unsqueeze(1).expand(per_kv_head)
        v = self._values(piece.slots).transpose(0, 1).unsqueeze(1).expand(per_kv_head)
        out, lse = self._attend(q, k, v, piece.mask, piece.is_causal)
        self.out[piece.start : piece.end] = out.permute(2, 0, 1, 3)
        self.lse[piece.start : piece.end] = lse.permute(2, 0, 1)

    def add(self, levels: list[Level]) -> None:
        """The runs of all levels."""
        for number, level in enumerate(levels):
            for call in level.calls:
                self._add_run(level.queries[call.first : call.last], call.slots, number + 1 < len(levels))

    def _add_run(self, queries: torch.Tensor, slots: torch.Tensor, more_follow: bool) -> None:
        k = self._keys(slots).transpose(0, 1).unsqueeze(0)
        v = self._values(slots).transpose(0, 1).unsqueeze(0)
        for rows in queries.split(_MOST_QUERIES):
            # Queries and the heads that share a KV head stand side by side: (1, kv_heads, n * heads, dim).
            q = self._query[rows].transpose(0, 1).flatten(1, 2).unsqueeze(0)
            out, lse = self._attend(q, k, v, None)
            out = out.squeeze(0).unflatten(1, (len(rows), -1)).transpose(0, 1)
            lse = lse.squeeze(0).unflatten(1, (len(rows), -1)).transpose(0, 1)
            before = self.lse[rows]
            weight = torch.sigmoid(lse - before).unsqueeze(-1)
            self.out[rows] = self.out[rows].lerp_(out.float(), weight)
            if more_follow:
                self.lse[rows] = torch.logaddexp(before, lse)

    def _keys(self, slots: torch.Tensor) -> torch.Tensor:
        return gather(self._k_cache, slots, self._query.dtype)

    def _values(self, slots: torch.Tensor) -> torch.Tensor:
        return gather(self._v_cache, slots, self._query.dtype)

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """q, k, v: (batch, heads, length, dim); mask True where a key is seen. Output, log-sum-exp."""
        if mask is not None:
            mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, is_causal, attn_mask=mask, scale=self._scaling
        )
