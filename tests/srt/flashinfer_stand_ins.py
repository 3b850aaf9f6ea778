"""FlashInfer's wrappers in plain PyTorch: SGLang's FlashInfer backend, and ours on it, run on the CPU.

Each call is first bound to the signature of the installed FlashInfer, and arrays have to be of the types that
its kernels take. What is computed is what its documentation says: attention over KV in pages of one token,
the log-sum-exp to base 2. So nothing is said about speed or about the kernels themselves.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """q: (n, heads, dim), k and v: (m, kv_heads, dim). Output as q, and log2-sum-exp (n, heads)."""
    groups = q.shape[1] // k.shape[1]
    keys, values = (t.float().repeat_interleave(groups, dim=1) for t in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q.float(), keys) * (scale or q.shape[-1] ** -0.5)
    if causal:
        n, m = scores.shape[1:]
        scores.masked_fill_(torch.ones(n, m, dtype=torch.bool).triu(m - n + 1), -math.inf)
    lse = torch.logsumexp(scores, dim=-1)
    out = torch.einsum("hnm,mhd->nhd", torch.exp(scores - lse.unsqueeze(-1)), values)
    return out.to(q.dtype).contiguous(), lse.T.contiguous() / math.log(2)


def int32(array: torch.Tensor) -> list[int]:
    assert array.dtype == torch.int32, array.dtype
    return array.tolist()


class Wrapper:
    """Base: `plan` keeps the cuts, `_run` attends request by request."""

    real: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        inspect.signature(self.real.__init__).bind(self, *args, **kwargs)
        self.is_cuda_graph_enabled = False

    def _bind(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(getattr(self.real, method)).bind(self, *args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def plan(self, *args: Any, **kwargs: Any) -> None:
        given = self._bind("plan", args, kwargs)
        self._causal = given.get("causal", False)
        self._plan(given)

    def begin_forward(self, *args: Any, **kwargs: Any) -> None:
        self.plan(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As it was planned."""
        return self._attend(self._bind("run", args, kwargs), self._causal, None)[0]

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._forward(self._bind("forward", args, kwargs))[0]

    def forward_return_lse(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._forward(self._bind("forward_return_lse", args, kwargs))

    def _plan(self, given: dict[str, Any]) -> None:
        raise NotImplementedError

    def _parts(self, given: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        raise NotImplementedError

    def _forward(self, given: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        assert given["window_left"] in (-1, None), given["window_left"]
        assert not given["logits_soft_cap"], given["logits_soft_cap"]
        return self._attend(given, given.get("causal", False), given["sm_scale"])

    def _attend(
        self, given: dict[str, Any], causal: bool, scale: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        done = [attend(*part, causal=causal, scale=scale) for part in self._parts(given)]
        return torch.cat([out for out, _ in done]), torch.cat([lse for _, lse in done])


class _Paged(Wrapper):
    def _parts(self, given: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        # In pages of one token, with or without a dimension for them.
        k_cache, v_cache = (cache.flatten(0, -3) for cache in given["paged_kv_cache"])
        assert self._qo[-1] == len(given["q"]), "the plan is of another batch"
        return [
            (given["q"][q0:q1], k_cache[self._slots[k0:k1]], v_cache[self._slots[k0:k1]])
            for q0, q1, k0, k1 in zip(self._qo, self._qo[1:], self._kv, self._kv[1:], strict=False)
        ]

    def _keep(
        self, qo: list[int], kv: torch.Tensor, slots: torch.Tensor, last_page_len: torch.Tensor
    ) -> None:
        assert set(int32(last_page_len)) == {1}
        assert len(last_page_len) == len(qo) - 1
        int32(slots[:0])
        self._qo, self._kv, self._slots = qo, int32(kv), slots.long()
        assert len(self._kv) == len(qo), "as many requests in queries as in KV"
        assert len(slots) >= self._kv[-1]


class PagedPrefill(_Paged):
    """`BatchPrefillWithPagedKVCacheWrapper`."""

    def _plan(self, given: dict[str, Any]) -> None:
        assert given["page_size"] == 1
        assert given["custom_mask"] is None
        self._keep(
            int32(given["qo_indptr"]),
            given["paged_kv_indptr"],
            given["paged_kv_indices"],
            given["paged_kv_last_page_len"],
        )


class PagedDecode(_Paged):
    """`BatchDecodeWithPagedKVCacheWrapper`."""

    def _plan(self, given: dict[str, Any]) -> None:
        assert given["page_size"] == 1
        qo = list(range(len(given["indptr"])))
        self._keep(qo, given["indptr"], given["indices"], given["last_page_len"])


class RaggedPrefill(Wrapper):
    """`BatchPrefillWithRaggedKVCacheWrapper`."""

    def _plan(self, given: dict[str, Any]) -> None:
        self._qo, self._kv = int32(given["qo_indptr"]), int32(given["kv_indptr"])

    def _parts(self, given: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        return [
            (given["q"][q0:q1], given["k"][k0:k1], given["v"][k0:k1])
            for q0, q1, k0, k1 in zip(self._qo, self._qo[1:], self._kv, self._kv[1:], strict=False)
        ]


def merge_state(
    v_a: torch.Tensor, s_a: torch.Tensor, v_b: torch.Tensor, s_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`flashinfer.cascade.merge_state`; v: (n, heads, dim), s: (n, heads) float32, to base 2."""
    assert s_a.dtype == s_b.dtype == torch.float32
    s = torch.logaddexp2(s_a, s_b)
    weighted = [v.float() * torch.exp2(part - s).unsqueeze(-1) for v, part in ((v_a, s_a), (v_b, s_b))]
    return (weighted[0] + weighted[1]).to(v_a.dtype), s


def merge_into(
    out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor, rows: torch.Tensor
) -> None:
    """Our kernel of this name."""
    assert len(set(rows.tolist())) == len(rows), "a row twice"
    assert all(t.is_contiguous() for t in (out, lse, part, part_lse, rows))
    out[rows], lse[rows] = merge_state(out[rows], lse[rows], part, part_lse)


class KvIndices:
    """SGLang's `create_flashinfer_kv_indices_triton`: the slots of each request, from `start` on."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._launch, grid[0])

    @staticmethod
    def _launch(
        bs: int,
        req_to_token: torch.Tensor,
        rows: torch.Tensor,
        lens: torch.Tensor,
        indptr: torch.Tensor,
        start: torch.Tensor | None,
        out: torch.Tensor,
        stride: int,
    ) -> None:
        assert stride == req_to_token.shape[1]
        for i in range(bs):
            first = 0 if start is None else int(start[i])
            slots = req_to_token[rows[i], first : first + int(lens[i])]
            out[int(indptr[i]) : int(indptr[i]) + len(slots)] = slots.to(out.dtype)


class _TorchWithoutCuda:
    """`torch`, except that what is to be made on the GPU is made here."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.empty(*args, **kwargs | {"device": "cpu"})


def stand_in(module: ModuleType) -> None:
    """Put the wrappers into the place of those of `flashinfer`."""
    for name, wrapper in (
        ("BatchPrefillWithPagedKVCacheWrapper", PagedPrefill),
        ("BatchPrefillWithRaggedKVCacheWrapper", RaggedPrefill),
        ("BatchDecodeWithPagedKVCacheWrapper", PagedDecode),
    ):
        wrapper.real = getattr(module, name)
        setattr(module, name, wrapper)


def run_scheduler_process(*args: Any, **kwargs: Any) -> None:
    """SGLang's function of this name, with the stand-ins in place and the GPU's backend as `blend`."""
    import flashinfer
    import flashinfer.cascade
    from sglang.srt import utils

    stand_in(flashinfer)
    flashinfer.cascade.merge_state = merge_state
    utils.is_flashinfer_available = lambda: True

    from sglang.srt.layers.attention import flashinfer_backend
    from sglang.srt.managers.scheduler import run_scheduler_process as original

    from sglang_blend.cost.break_even import BreakEven
    from sglang_blend.srt import attention_backend
    from sglang_blend.srt.cuda import shared_attention

    setattr(shared_attention, "merge_into", merge_into)  # noqa: B010
    flashinfer_backend.torch = _TorchWithoutCuda()
    flashinfer_backend.create_flashinfer_kv_indices_triton = KvIndices()
    # Prefixes as short as a test's are worth sharing.
    free = BreakEven(group_tokens=1, reader_tokens=1)
    attention_backend._make_backend = lambda runner: shared_attention.SharedPrefixFlashInferBackend(
        runner, free
    )
    original(*args, **kwargs)
