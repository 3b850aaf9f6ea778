"""SGLang's radix cache, whose nodes know what waits for them: `--radix-cache-backend blend`.

Every node carries a `Demand`: how many waiting requests need its tokens, and which of them go on from it.
Eviction takes nodes that nobody waits for first, by SGLang's own eviction policy, then those that are needed
last in the plan, and of these no more than has to go, from their ends: what is left of a long document still
spares its readers most of it.

A waiting request is anchored at the deepest node that its prompt matches. The invariant that makes this
cheap: no request anchored at a node starts, behind it, like one of the node's children. So inserting a node
moves exactly the requests that stand under its first page, a split moves nobody, and an evicted leaf hands
its requests to its parent.

Source: BlendServe, arXiv:2411.16102, sections 5.1 (annotated tree) and 6.1; demand-aware eviction is ours.
SGLang 0.5.17: `RadixCache`, with the `_new_node` seam.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sglang.srt.mem_cache.base_prefix_cache import EvictParams, EvictResult
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey, TreeNode

from sglang_blend.scheduling.request_state import Key

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


# A needed node gives up at least this part of the KV pool at a time: each eviction looks at every leaf.
_LEAST_CUT_RATIO = 1 / 64


class Expected:
    """A waiting request in the tree.

    Attributes:
        rid, key: its id and its page-aligned prompt.
        plan_key: its place in the planned order.
        node: where it is anchored.
        matched_len: tokens of the prompt that the cache holds, up to and with that node.
    """

    __slots__ = ("key", "matched_len", "node", "plan_key", "rid")

    def __init__(self, rid: str, key: RadixKey, plan_key: Key) -> None:
        self.rid, self.key, self.plan_key = rid, key, plan_key
        self.node: TreeNode = None
        self.matched_len = 0


class Demand:
    """What waits for a node: the annotation that `BlendRadixCache` keeps on each.

    Attributes:
        num_pending: waiting requests whose prompt runs through the node.
        anchored: the requests that match up to this node and no further, by their next page.
    """

    __slots__ = ("anchored", "num_pending")

    def __init__(self, split_from: Demand | None = None) -> None:
        self.num_pending: int = split_from.num_pending if split_from else 0
        self.anchored: dict[Any, dict[str, Expected]] = {}


class DemandAwareEviction:
    """SGLang's eviction strategy with demand in front: the lowest priority is evicted first."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def get_priority(self, node: TreeNode) -> tuple[Any, ...]:
        """Of a node without children: unwanted ones first, then those wanted last in the plan."""
        demand: Demand = node.demand
        if demand.num_pending == 0:
            return (0, (), self._base.get_priority(node))
        first = min(e.plan_key for group in demand.anchored.values() for e in group.values())
        return (1, tuple(-part for part in first), self._base.get_priority(node))


class BlendRadixCache(RadixCache):
    """`RadixCache` with a `demand` on every node.

    `expect` and `forget` tell it who waits. `on_cached(req, chunked)` is called when a request's computed
    tokens have entered the tree, or never will, `on_retracted(req)` when they have and it waits again,
    `on_reset()` when the tree was emptied.

    Attributes:
        num_evicted_tokens, num_evicted_wanted_tokens: since the start; wanted are those that a waiting
            request would have used.
    """

    def __init__(self, params: CacheInitParams, *, demand_aware_eviction: bool = True) -> None:
        self._expected: dict[str, Expected] = {}  # before super: it calls reset
        self.on_cached: Callable[[Req, bool], None] | None = None
        self.on_retracted: Callable[[Req], None] | None = None
        self.on_reset: Callable[[], None] | None = None
        self.num_evicted_tokens = 0
        self.num_evicted_wanted_tokens = 0
        super().__init__(params)
        self._least_cut = 0
        if demand_aware_eviction:
            self.eviction_strategy: Any = DemandAwareEviction(self.eviction_strategy)
            self._least_cut = math.ceil(self.token_to_kv_pool_allocator.size * _LEAST_CUT_RATIO)

    def expect(self, rid: str, key: RadixKey, plan_key: Key) -> None:
        """A request waits; one that is expected already takes its new place."""
        if self.disable:
            return
        self.forget(rid)
        key, _ = key.maybe_to_bigram_view(self.is_eagle)
        expected = Expected(rid, key.page_aligned(self.page_size), plan_key)
        self._expected[rid] = expected
        self._enter_at_root(expected)

    def forget(self, rid: str) -> None:
        """A request waits no longer."""
        expected = self._expected.pop(rid, None)
        if expected is None:
            return
        for node in _path_to_root(expected.node):
            node.demand.num_pending -= 1
        self._unanchor(expected)

    @property
    def num_expected(self) -> int:
        """Waiting requests that it knows, by name or by count, whichever are more."""
        return max(len(self._expected), self.root_node.demand.num_pending)

    def forget_all(self) -> None:
        """Nobody waits; walks the tree."""
        self._expected.clear()
        for node in self._nodes():
            node.demand = Demand()

    def node_of(self, rid: str) -> TreeNode | None:
        """The deepest node that a waiting request matches; None if it is not expected."""
        expected = self._expected.get(rid)
        return None if expected is None else expected.node

    def reset(self) -> None:
        """Empty the tree; who waits goes on waiting."""
        super().reset()
        for expected in self._expected.values():
            self._enter_at_root(expected)
        if self.on_reset is not None:
            self.on_reset()

    def cache_finished_req(self, req: Req, is_insert: bool = True, **kwargs: Any) -> None:
        """As SGLang's; then say so.

        SGLang throws away what a retracted request has computed (its TODO in `release_req`). Here it stays
        until the memory is really needed, so that much of it may still be there when the request goes on.
        """
        is_retracted = not is_insert and _goes_on(req)
        super().cache_finished_req(req, is_insert or is_retracted, **kwargs)
        if is_retracted and self.on_retracted is not None:
            self.on_retracted(req)
        if self.on_cached is not None:
            self.on_cached(req, False)

    def cache_unfinished_req(self, req: Req, chunked: bool = False) -> None:
        """As SGLang's; then say so."""
        super().cache_unfinished_req(req, chunked)
        if self.on_cached is not None:
            self.on_cached(req, chunked)

    def evict(self, params: EvictParams) -> EvictResult:
        """As SGLang's, except that of a node that is needed only the end goes."""
        if self.disable or not self._least_cut:
            return super().evict(params)
        start = time.perf_counter()
        priority = self.eviction_strategy.get_priority
        heap = [(priority(node), node) for node in self.evictable_leaves]
        heapq.heapify(heap)
        num_evicted = 0
        while num_evicted < params.num_tokens and heap:
            _, node = heapq.heappop(heap)
            self._cut(node, params.num_tokens - num_evicted)
            self.token_to_kv_pool_allocator.free_segment(node.value, start_pos=0)
            num_evicted += len(node.value)
            self._delete_leaf(node)
            if not node.parent.children and node.parent.lock_ref == 0:
                heapq.heappush(heap, (priority(node.parent), node.parent))
            self._record_remove_event(node)
        self.update_eviction_metrics(num_evicted, start)
        return EvictResult(num_tokens_evicted=num_evicted)

    def _cut(self, leaf: TreeNode, num_tokens: int) -> None:
        """Leave in `leaf` what is to be evicted for `num_tokens`; the rest becomes its parent."""
        num_pages = -(-max(num_tokens, self._least_cut) // self.page_size)
        kept = len(leaf.key) - num_pages * self.page_size
        if kept > 0 and leaf.demand.num_pending:
            self._split_node(leaf.key, leaf, kept)

    def check_integrity(self) -> None:
        """Compare what is kept up to date step by step with what follows from the tree; one walk.

        Raises:
            AssertionError: they differ, which is a bug; the message has the numbers.
        """
        evictable = protected = 0
        pending: dict[int, list[Expected]] = {node.id: [] for node in self._nodes()}
        for expected in self._expected.values():
            node, rest = self.root_node, expected.key
            while len(rest) and (child := node.children.get(rest.child_key(self.page_size))) is not None:
                matched = child.key.match(rest, page_size=self.page_size)
                assert matched == len(child.key), f"{expected.rid} stops inside node {child.id}"
                node, rest = child, rest[matched:]
            assert node is expected.node, f"{expected.rid} is anchored at {expected.node.id}, not {node.id}"
            assert len(expected.key) - len(rest) == expected.matched_len, f"matched_len of {expected.rid}"
            for above in _path_to_root(node):
                pending[above.id].append(expected)
        for node in self._nodes():
            of_node = pending[node.id]
            assert node.demand.num_pending == len(of_node), (
                f"node {node.id} counts {node.demand.num_pending} pending requests, there are {len(of_node)}"
            )
            anchored = {rid for group in node.demand.anchored.values() for rid in group}
            assert anchored == {e.rid for e in of_node if e.node is node}, f"anchored at node {node.id}"
            if node is not self.root_node:
                evictable += len(node.key) * (node.lock_ref == 0)
                protected += len(node.key) * (node.lock_ref > 0)
                leaf = not node.children and node.lock_ref == 0
                assert leaf == (node in self.evictable_leaves), f"node {node.id} and evictable_leaves"
        assert (evictable, protected) == (self.evictable_size_, self.protected_size_), (
            f"{evictable} evictable and {protected} protected tokens, "
            f"counted are {self.evictable_size_} and {self.protected_size_}"
        )

    def _new_node(self, priority: int, split_from: TreeNode | None = None) -> TreeNode:
        node = super()._new_node(priority, split_from)
        node.demand = Demand(split_from.demand if split_from is not None else None)
        return node

    def _insert_helper(
        self, node: TreeNode, key: RadixKey, value: Any, priority: int = 0, chunked: bool = False
    ) -> tuple[int, TreeNode]:
        matched_len, last = super()._insert_helper(node, key, value, priority, chunked)
        if matched_len < len(key):  # a leaf was made
            for expected in last.parent.demand.anchored.pop(last.key.child_key(self.page_size), {}).values():
                self._descend(expected)
        return matched_len, last

    def _delete_leaf(self, node: TreeNode) -> None:
        parent, page = node.parent, node.key.child_key(self.page_size)
        self.num_evicted_tokens += len(node.key)
        self.num_evicted_wanted_tokens += len(node.key) * (node.demand.num_pending > 0)
        orphans = {rid: e for group in node.demand.anchored.values() for rid, e in group.items()}
        for expected in orphans.values():
            expected.node = parent
            expected.matched_len -= len(node.key)
        super()._delete_leaf(node)
        if orphans:
            parent.demand.anchored[page] = orphans

    def _enter_at_root(self, expected: Expected) -> None:
        expected.node, expected.matched_len = self.root_node, 0
        self.root_node.demand.num_pending += 1
        self._descend(expected)

    def _descend(self, expected: Expected) -> None:
        """Move a request from its node to the deepest one it matches, and anchor it there."""
        node, rest = expected.node, expected.key[expected.matched_len :]
        while len(rest) and (child := node.children.get(rest.child_key(self.page_size))) is not None:
            matched = child.key.match(rest, page_size=self.page_size)
            node = child if matched == len(child.key) else self._split_node(child.key, child, matched)
            node.demand.num_pending += 1
            rest = rest[matched:]
        expected.node, expected.matched_len = node, len(expected.key) - len(rest)
        page = rest.child_key(self.page_size) if len(rest) else None
        node.demand.anchored.setdefault(page, {})[expected.rid] = expected

    def _unanchor(self, expected: Expected) -> None:
        rest = expected.key[expected.matched_len :]
        page = rest.child_key(self.page_size) if len(rest) else None
        groups = expected.node.demand.anchored
        del groups[page][expected.rid]
        if not groups[page]:
            del groups[page]

    def _nodes(self) -> Iterator[TreeNode]:
        stack = [self.root_node]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


def _goes_on(req: Req) -> bool:
    """Whether a request that gives its memory back was decoding and will be computed further."""
    ended = req.finished() or req.to_finish is not None
    return bool(req.output_ids) and not ended and not getattr(req, "skip_radix_cache_insert", False)


def _path_to_root(node: TreeNode | None) -> Iterator[TreeNode]:
    while node is not None:
        yield node
        node = node.parent
