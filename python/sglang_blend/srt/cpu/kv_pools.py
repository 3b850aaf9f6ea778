"""The KV pools of the CPU platform: SGLang's, with memory that the host gives when it is first written.

`torch.zeros` writes every page at start, 1.4 s a GiB on a virtual machine, and holds memory that a small job
never uses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from torch.overrides import TorchFunctionMode


class CpuMHATokenToKVPool(MHATokenToKVPool):
    """`MHATokenToKVPool` whose pages are taken as they fill."""

    def _create_buffers(self) -> None:
        with _ZerosOnDemand():
            super()._create_buffers()


class CpuMLATokenToKVPool(MLATokenToKVPool):
    """`MLATokenToKVPool` whose pages are taken as they fill.

    Out-of-tree platforms are called with an argument that SGLang's own constructor does not take (0.5.17:
    `KVCacheConfigurator._build_oot_mla_kv_pool`).
    """

    def __init__(self, size: int, *, index_head_dim: int | None = None, **kwargs: Any) -> None:
        assert index_head_dim is None, "models with sparse attention get another pool"
        super().__init__(size, **kwargs)

    def _create_buffers(self) -> None:
        with _ZerosOnDemand():
            super()._create_buffers()


class _ZerosOnDemand(TorchFunctionMode):
    """Inside, `torch.zeros` is `calloc`: the same zeros, from pages that exist once they are touched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.zeros:
            return func(*args, **kwargs)
        (shape,) = args
        dtype = kwargs["dtype"]
        raw = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
        return torch.from_numpy(raw).view(dtype).view(shape)
