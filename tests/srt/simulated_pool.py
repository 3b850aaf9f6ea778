"""A KV pool that only counts, for SGLang's simulated radix caches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def allocator(num_tokens: int, page_size: int = 1) -> Any:
    """Of an empty pool that stays empty."""
    return SimpleNamespace(
        size=num_tokens,
        size_full=num_tokens,
        available_size=lambda: num_tokens,
        device="cpu",
        page_size=page_size,
    )
