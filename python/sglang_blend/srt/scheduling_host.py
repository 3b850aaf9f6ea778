"""SGLang's scheduler as a host of ours: what `scheduling.host.Host` asks, answered from its pool and cache.

SGLang 0.5.17: `Req`, `BasePrefixCache`, `PrefillAdder` and the KV allocators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sglang.srt.environ import envs
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.managers.schedule_policy import PrefillAdder
from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
from sglang.srt.mem_cache.radix_cache import RadixKey, TreeNode

from sglang_blend.scheduling.host import Match, WindowPool
from sglang_blend.scheduling.in_flight import common_prefix_len
from sglang_blend.scheduling.request_state import RequestState
from sglang_blend.srt.radix_cache import BlendRadixCache


class SGLangHost:
    """See `Host`; the handle of a request is its `Req`.

    Attributes:
        adder: of the present prefill pass.
        matched: the request of the queue that SGLang has matched with the cache last.
    """

    def __init__(self, tree_cache: BasePrefixCache) -> None:
        self.mem_tokens: int = tree_cache.token_to_kv_pool_allocator.size_full
        self.page_size: int = tree_cache.page_size
        self.caches_prefixes = not getattr(tree_cache, "disable", False)
        self.adder: PrefillAdder | None = None
        self.matched: Req | None = None
        self._tree = tree_cache
        self._blend_cache = tree_cache if isinstance(tree_cache, BlendRadixCache) else None
        self.tells_when_cached = self._blend_cache is not None

    def count_generated(self, states: Sequence[RequestState]) -> list[int]:
        """See `Host`."""
        return [len(state.handle.output_ids) for state in states]

    def match(self, state: RequestState) -> Match:
        """See `Host`; as SGLang has matched it last (`Req.init_next_round_input`, `cache_unfinished_req`)."""
        req: Req = state.handle
        cached_len, ids = len(req.prefix_indices), req.full_untruncated_fill_ids
        rest = ids[cached_len:]
        place = (node_number(req.last_node), namespace(req), rest[0] if len(rest) else None)
        return Match(cached_len, len(rest), len(rest) - 1, place, rest)

    def common_len(self, a: Any, b: Any) -> int:
        """See `Host`."""
        return common_prefix_len(a, b)

    def unlocked_prefix(self, state: RequestState) -> Iterator[tuple[int, int]]:
        """See `Host`; of one that was not matched just now, as far as our cache keeps up with it."""
        if self.matched is not None and self.matched is state.handle:
            node = self.matched.last_node
        else:
            node = None if self._blend_cache is None else self._blend_cache.node_of(state.rid)
        while isinstance(node, TreeNode) and node.parent is not None:
            if node.lock_ref == 0:
                yield node.id, len(node.key)
            node = node.parent

    def held_tokens(self) -> float:
        """See `Host`."""
        adder = self.adder
        assert adder is not None, "a pass has begun"
        free = adder.rem_total_tokens + adder.rem_total_token_offset
        to_come = sum(len(r.full_untruncated_fill_ids) - len(r.prefix_indices) for r in adder.can_run_list)
        return self.mem_tokens - free + to_come

    def window_pool(self) -> WindowPool | None:
        """See `Host`.

        SGLang frees what has left the window every so many steps, and not what the radix cache holds of the
        prompt's last window: a request never holds more than two windows and those steps.
        """
        adder = self.adder
        assert adder is not None, "a pass has begun"
        if not adder.is_hybrid_swa:
            return None
        allocator, tree = adder.token_to_kv_pool_allocator, adder.tree_cache
        steps = max(envs.SGLANG_SWA_EVICTION_INTERVAL.get(), 1)
        return WindowPool(
            pool_tokens=allocator.size_swa,
            used_tokens=allocator.size_swa - allocator.swa_available_size() - tree.swa_evictable_size(),
            most_tokens=2 * tree.sliding_window_size + steps + self.page_size,
        )

    def expect(self, state: RequestState) -> None:
        """See `Host`."""
        if self._blend_cache is not None:
            req: Req = state.handle
            tokens = RadixKey(req.origin_input_ids + req.output_ids, req.extra_key)
            self._blend_cache.expect(state.rid, tokens, state.key)

    def forget(self, rid: str) -> None:
        """See `Host`."""
        if self._blend_cache is not None:
            self._blend_cache.forget(rid)

    def num_expected(self) -> int:
        """See `Host`."""
        return 0 if self._blend_cache is None else self._blend_cache.num_expected

    def forget_all(self) -> None:
        """See `Host`."""
        if self._blend_cache is not None:
            self._blend_cache.forget_all()


def namespace(req: Req) -> str:
    """Requests of different namespaces never share a prefix; SGLang puts the LoRA adapter into it."""
    return req.extra_key or ""


def node_number(node: Any) -> int | None:
    """A node's id; trees other than SGLang's plain one hand out numbers themselves, and none has no node."""
    return node if node is None or isinstance(node, int) else node.id
