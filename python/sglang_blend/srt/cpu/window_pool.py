"""Models whose sliding-window layers keep their KV in a pool of their own, on the CPU platform.

SGLang asks an out-of-tree platform for one pool and one allocator, and then builds the radix cache of two. A
hook builds the pools that it builds on a GPU.

SGLang 0.5.17: `KVCacheConfigurator._build_token_to_kv_pool`, `_build_hybrid_swa_kv_pool`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def build_pool(original: Callable[..., Any], configurator: Any, *, sizes: Any, **kwargs: Any) -> Any:
    """Hook: the KV pool of the model."""
    from sglang.srt.platforms import current_platform

    from sglang_blend.srt.platform import BlendCpuPlatform

    if not configurator.is_hybrid_swa or not isinstance(current_platform, BlendCpuPlatform):
        return original(configurator, sizes=sizes, **kwargs)
    return configurator._build_hybrid_swa_kv_pool(
        full_max_total_num_tokens=sizes.full_max_total_num_tokens,
        swa_max_total_num_tokens=sizes.swa_max_total_num_tokens,
        mha_pool_class=current_platform.get_mha_kv_pool_cls(),
    )
