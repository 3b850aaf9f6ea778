"""`--attention-backend blend` on NVIDIA GPUs: FlashInfer, reading KV that requests share once a decode step.

Has not run on a GPU yet. Without one it ran in the engine on stand-ins for FlashInfer's kernels
(`tests/srt/test_cuda_attention.py`).

Prefill, and decode steps that share nothing worth it, are SGLang's `FlashInferAttnBackend`. Other decode
steps run its decode kernel over the private part of each request, one prefill kernel a level over the shared
runs (queries of a run's readers side by side), and merge by log-sum-exp. No CUDA graphs: the number of levels
and runs changes from step to step.

SGLang 0.5.17: `FlashInferAttnBackend.init_forward_metadata`, `.forward_decode`,
`FlashInferIndicesUpdaterDecode.call_begin_forward` (reads from `kv_start_idx`).
FlashInfer 0.6: `BatchPrefillWithPagedKVCacheWrapper.plan`, `.forward_return_lse`; both kernels give the
log-sum-exp to base 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from flashinfer import BatchPrefillWithPagedKVCacheWrapper
from sglang.srt.layers.attention.flashinfer_backend import (
    DecodeMetadata,
    FlashInferAttnBackend,
)
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.model_executor.cuda_graph_config import Backend
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from sglang_blend.attention.decode_groups import DecodeGroups
from sglang_blend.attention.level_arrays import level_arrays
from sglang_blend.attention.read_counts import CountsReads, ReadCounts
from sglang_blend.attention.shared_runs import SharedRuns, SlotArray
from sglang_blend.cost.break_even import GPU, BreakEven
from sglang_blend.errors import ConfigError
from sglang_blend.srt.cuda.merge import merge_into

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.model_runner import ModelRunner


def refuse_unsupported(runner: ModelRunner) -> None:
    """Stop where the kernels would not do.

    Raises:
        ConfigError: the model or a flag needs another backend; names it.
    """
    args = runner.server_args
    for unsupported, noun in (
        (runner.use_mla_backend, "models with multi-head latent attention (MLA)"),
        (runner.sliding_window_size is not None, "models with sliding-window layers"),
        (runner.model_config.is_encoder_decoder, "encoder-decoder models"),
        (runner.kv_cache_dtype != runner.dtype, f"--kv-cache-dtype {args.kv_cache_dtype}"),
        (args.speculative_algorithm is not None, f"--speculative-algorithm {args.speculative_algorithm}"),
        (args.enable_deterministic_inference, "--enable-deterministic-inference"),
        (args.enable_pdmux, "--enable-pdmux"),
    ):
        if unsupported:
            raise ConfigError(
                f"--attention-backend blend does not serve {noun}; leave --attention-backend out."
            )
    if args.cuda_graph_config.decode.backend != Backend.DISABLED:
        raise ConfigError("--attention-backend blend runs without CUDA graphs; add --disable-cuda-graph.")


class _Level:
    """The runs of one level: their kernel, planned, and whose queries it takes."""

    def __init__(self, workspace: torch.Tensor) -> None:
        self.wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend="fa2")
        self.queries: torch.Tensor  # (n,) int64 on the GPU; set by `_plan_levels`


class SharedPrefixFlashInferBackend(FlashInferAttnBackend, CountsReads):
    """See the module."""

    def __init__(self, model_runner: ModelRunner, break_even: BreakEven = GPU) -> None:
        refuse_unsupported(model_runner)
        super().__init__(model_runner)
        self.read_counts = ReadCounts()
        late = not model_runner.server_args.disable_overlap_schedule
        self._groups = DecodeGroups(break_even, settle_late=late)
        self._runs: SharedRuns | None = None
        self._levels: list[_Level] = []  # made when first needed, then planned anew
        self._num_levels = 0
        self._row_of: dict[str, int] = {}  # by request id; rows of `req_to_token`

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        """What SGLang's class does, or for a step that shares: the private parts, then the levels."""
        mode = forward_batch.forward_mode
        if not mode.is_decode() or forward_batch.batch_size == 0:
            self._num_levels = 0
            if mode.is_extend():
                rows = _rows_on_gpu(forward_batch)
                self._row_of.update(zip(forward_batch.rids or (), rows.tolist(), strict=False))
                self._groups.on_prefill(rows)
            super().init_forward_metadata(forward_batch)
            return
        runs = self._shared_runs(forward_batch)
        self._num_levels = len(runs.levels())
        if not runs.runs:
            super().init_forward_metadata(forward_batch)
            return
        if runs is not self._runs:
            self._plan_levels(runs)
        start = torch.from_numpy(runs.private_start)
        lens_cpu = forward_batch.seq_lens_cpu - start
        start = start.to(self.kv_indptr[0].device, non_blocking=True)
        self.indices_updater_decode.call_begin_forward(
            self.decode_wrappers[0],
            forward_batch.req_pool_indices,
            forward_batch.seq_lens - start,
            int(lens_cpu.sum()),
            self.kv_indptr[0],
            start.int(),
            None,
            lens_cpu,
            disable_split_kv=False,
        )
        self.forward_metadata = DecodeMetadata(self.decode_wrappers)

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """q: (bs, heads * dim); so is the result."""
        if not self._num_levels:
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
        if k is not None and save_kv_cache:
            self.token_to_kv_pool.set_kv_buffer(
                layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v, *self._kv_write_scales(layer)
            )
        kv_cache = self.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        query = q.contiguous().view(-1, layer.tp_q_head_num, layer.head_dim)
        scales = {"sm_scale": layer.scaling, "logits_soft_cap": layer.logit_cap}
        out, lse = self.decode_wrappers[0].forward_return_lse(query, kv_cache, **scales)
        for level in self._levels[: self._num_levels]:
            shared, shared_lse = level.wrapper.forward_return_lse(
                query[level.queries], kv_cache, causal=False, **scales
            )
            merge_into(out, lse, shared, shared_lse, level.queries)
        return out.view(-1, layer.tp_q_head_num * layer.head_dim)

    def _shared_runs(self, forward_batch: ForwardBatch) -> SharedRuns:
        rows = self._rows(forward_batch)
        lens = forward_batch.seq_lens_cpu.numpy().astype(np.int64)

        def fetch(at: np.ndarray) -> list[SlotArray]:
            longest = int(lens[at].max(initial=0))
            wanted = torch.from_numpy(rows[at]).to(forward_batch.req_pool_indices.device)
            slots = self.req_to_token_pool.req_to_token[wanted, :longest].cpu().numpy()
            return [slots[i, : lens[position] - 1] for i, position in enumerate(at.tolist())]

        runs = self._groups.update(rows, lens, fetch)
        self.read_counts.add_decode(int(lens.sum()), runs)
        return runs

    def _rows(self, forward_batch: ForwardBatch) -> np.ndarray:
        """(bs,) int64 rows of the requests, as their prefill had them: asking the GPU would wait for it."""
        rids, bs = forward_batch.rids or [], forward_batch.batch_size
        known = [self._row_of[rid] for rid in rids if rid in self._row_of]
        if len(known) != bs:
            return _rows_on_gpu(forward_batch)
        if len(self._row_of) > 2 * bs:  # who has finished
            self._row_of = dict(zip(rids, known, strict=True))
        return np.array(known, np.int64)

    def _plan_levels(self, runs: SharedRuns) -> None:
        """Tell the kernels about runs that were not there in the step before."""
        self._runs = runs
        updater = self.indices_updater_decode
        device = self.kv_indptr[0].device
        for number, arrays in enumerate(level_arrays(runs)):
            if number == len(self._levels):
                self._levels.append(_Level(self.workspace_buffer))
            level = self._levels[number]
            level.queries = torch.from_numpy(arrays.queries).to(device)
            # `plan` reads the cuts on the host; given them on the GPU it would wait for it.
            level.wrapper.plan(
                torch.from_numpy(arrays.qo_indptr),
                torch.from_numpy(arrays.kv_indptr),
                torch.from_numpy(arrays.kv_indices).to(device),
                torch.ones(len(arrays.qo_indptr) - 1, dtype=torch.int32),
                updater.num_qo_heads,
                updater.num_kv_heads,
                updater.head_dim,
                1,
                q_data_type=updater.q_data_type,
                kv_data_type=updater.data_type,
            )


def _rows_on_gpu(forward_batch: ForwardBatch) -> np.ndarray:
    return forward_batch.req_pool_indices.cpu().numpy().astype(np.int64)
