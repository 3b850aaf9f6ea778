"""KV pool allocators of the CPU platform: page size 1.

SGLang builds an out-of-tree platform's allocator with a `page_size`, whatever the pool is
(`KVCacheConfigurator._build_token_to_kv_pool_allocator`, 0.5.17): its paged allocator runs Triton kernels,
its token allocator does not take the argument, and models that keep sliding-window layers in a pool of their
own need the allocator of two pools.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.mem_cache.allocator.base import BaseTokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool


class CpuTokenToKVPoolAllocator(TokenToKVPoolAllocator):
    """`TokenToKVPoolAllocator` with the constructor that out-of-tree platforms are called with.

    For a pool with sliding-window layers of their own, SGLang's allocator for that is made instead.
    """

    def __new__(cls, *args: Any, kvcache: Any, **kwargs: Any) -> BaseTokenToKVPoolAllocator:
        if isinstance(kvcache, SWAKVPool):
            sizes = kvcache.size, kvcache.size_swa
            return SWATokenToKVPoolAllocator(*sizes, kvcache=kvcache, **kwargs)
        return super().__new__(cls)

    def __init__(self, size: int, *, page_size: int, **kwargs: Any) -> None:
        assert page_size == 1, f"page_size {page_size} should have been refused at start-up"
        super().__init__(size, **kwargs)
