"""KV pool allocator of the CPU platform: page size 1.

SGLang builds an out-of-tree platform's allocator with a `page_size` (`KVCacheConfigurator.
_build_token_to_kv_pool_allocator`, 0.5.17), but its paged allocator runs Triton kernels and its token
allocator does not take the argument. This adapter joins the two.
"""

from typing import Any

from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator


class CpuTokenToKVPoolAllocator(TokenToKVPoolAllocator):
    """`TokenToKVPoolAllocator` with the constructor that out-of-tree platforms are called with."""

    def __init__(self, size: int, *, page_size: int, **kwargs: Any) -> None:
        assert page_size == 1, f"page_size {page_size} should have been refused at start-up"
        super().__init__(size, **kwargs)
