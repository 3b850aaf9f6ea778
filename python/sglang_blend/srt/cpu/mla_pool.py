"""The KV pool of MLA models on the CPU platform.

SGLang gives an out-of-tree platform's pool an argument that its own does not take (0.5.17:
`KVCacheConfigurator._build_oot_mla_kv_pool`).
"""

from __future__ import annotations

from typing import Any

from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool


class CpuMLATokenToKVPool(MLATokenToKVPool):
    """`MLATokenToKVPool` with the constructor that out-of-tree platforms are called with."""

    def __init__(self, size: int, *, index_head_dim: int | None = None, **kwargs: Any) -> None:
        assert index_head_dim is None, "models with sparse attention get another pool"
        super().__init__(size, **kwargs)
