"""Questions about SGLang's requests and tree nodes that several of our parts ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.mem_cache.radix_cache import TreeNode


def namespace(req: Req) -> str:
    """Requests of different namespaces never share a prefix; SGLang puts the LoRA adapter into it."""
    return req.extra_key or ""


def node_number(node: Any) -> int:
    """A node's id; trees other than SGLang's plain one hand out numbers themselves."""
    return node if isinstance(node, int) else node.id


def unlocked_path(node: Any) -> Iterator[TreeNode]:
    """Cached nodes on the way to the root that nobody holds: admission takes them from the evictable."""
    while isinstance(node, TreeNode) and node.parent is not None:
        if node.lock_ref == 0:
            yield node
        node = node.parent
