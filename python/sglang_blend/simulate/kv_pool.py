"""The KV pool of the modelled engine and the radix cache that lives in it.

The cache holds the segments of a `SegmentTree` and, below them, what each request has alone: the rest of its
prompt and its output. What a running request holds is locked; the rest stays until the room is needed. As in
SGLang a prompt is found by others once its prefill has run, from then on and up to where it is cached.

Eviction keeps SGLang's leaf-first order without a heap: a segment becomes evictable at the moment its last
reader finishes, never before its children do, so the order of unlocking is the LRU order with children before
parents. With demand-aware eviction, what waiting requests need goes after everything else, what is needed
last in the plan first, and of that no more than has to go, from its end (as `srt.radix_cache`).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Literal

from sglang_blend.cost.segments import SegmentTree

EvictionPolicy = Literal["lru", "demand"]
# A needed segment gives up this part of the pool at a time, as in `srt.radix_cache` for a step's few tokens.
_LEAST_CUT_RATIO = 1 / 64


class KvPool:
    """Token accounting: free + private + locked + evictable == capacity, always.

    Attributes:
        free: tokens in no use.
        private: tokens of admitted requests that nobody shares.
        locked: tokens of segments on admitted requests' paths.
        evictable: tokens cached without a reader.
    """

    def __init__(self, tree: SegmentTree, capacity: int, eviction: EvictionPolicy) -> None:
        self.capacity = capacity
        self.free = capacity
        self.private = 0
        self.locked = 0
        self.evictable = 0
        self._parent, self._seg_len, self._end_len, self._leaf = tree.lists
        num_nodes = len(self._parent)
        self._held = [0] * num_nodes  # tokens of each segment in the pool, from its start
        self._ready = [0] * num_nodes  # of those, computed: what others find
        self._readers = [0] * num_nodes  # requests locked here plus children that are locked
        self._readers[0] = 1  # the root is never evicted
        self._computed_at = [0] * num_nodes
        self._num_computed = 0
        self._stamp = [0] * num_nodes  # changes when a segment is locked, which makes its queue entry stale
        # (segment, stamp), next to evict first; (minus request - 1, tokens) is what one request left behind.
        self._cold: deque[tuple[int, int]] = deque()
        self._own_kept: dict[int, int] = {}  # by request that waits again: its own tokens, still cached
        self._demand = Demand(tree) if eviction == "demand" else None
        self._least_cut = math.ceil(capacity * _LEAST_CUT_RATIO)

    @property
    def available(self) -> int:
        """Tokens that can be had, by evicting if need be."""
        return self.free + self.evictable

    @property
    def in_use(self) -> int:
        """Tokens of admitted requests, shared segments once."""
        return self.private + self.locked

    # ---- who waits

    def expect(self, request: int, rank: float) -> None:
        """A request waits, at this place of the plan."""
        if self._demand is not None:
            self._demand.expect(request, rank)

    def forget(self, request: int) -> None:
        """A request waits no longer."""
        if self._demand is not None:
            self._demand.forget(request)

    @property
    def num_expected(self) -> int:
        """Requests that are expected."""
        return 0 if self._demand is None else len(self._demand)

    # ---- what is cached

    def place(self, request: int) -> tuple[int, int]:
        """Where a prompt leaves what others can read: the deepest segment, and tokens from the root."""
        node = self._leaf[request]
        ready = self._ready
        while node and not ready[node]:
            node = self._parent[node]
        if ready[node] < self._seg_len[node]:
            return node, self._end_len[node] - self._seg_len[node] + ready[node]
        if node == self._leaf[request]:
            return node, self._end_len[node] + self._own_kept.get(request, 0)
        return node, self._end_len[node]

    def unlocked_prefix(self, request: int) -> list[tuple[int, int]]:
        """Segments on its path that can be evicted now, deepest first, and their tokens."""
        node = self._leaf[request]
        path = []
        if (kept := self._own_kept.get(request, 0)) and self._held[node] == self._seg_len[node]:
            path.append((-request - 1, kept))
        while node and not self._held[node]:
            node = self._parent[node]
        while not self._readers[node]:
            path.append((node, self._held[node]))
            node = self._parent[node]
        return path

    def in_flight_len(self, request: int) -> int:
        """Tokens of its prompt, beyond what it finds, that others are computing now."""
        found = self.place(request)[1]
        leaf = self._leaf[request]
        while leaf and not self._held[leaf]:
            leaf = self._parent[leaf]
        held = self._end_len[leaf] - self._seg_len[leaf] + self._held[leaf]
        return max(held - found, 0)

    def last_computed(self, request: int) -> int:
        """The deepest segment of a prompt that can be read as a whole."""
        node = self._leaf[request]
        while self._ready[node] < self._seg_len[node]:
            node = self._parent[node]
        return node

    def goes_on(self, request: int, node: int, found: int) -> int:
        """How a prompt goes on at its `place`: the segment; minus the request - 1 where it goes on alone."""
        if found < self._end_len[node]:
            return node
        leaf = self._leaf[request]
        if leaf == node:
            return -request - 1
        while self._parent[leaf] != node:
            leaf = self._parent[leaf]
        return leaf

    def common_len(self, a: int, b: int) -> int:
        """Tokens that the prompts of two requests have in common from the start."""
        left, right = self._leaf[a], self._leaf[b]
        while left != right:  # parents have smaller numbers
            if left > right:
                left = self._parent[left]
            else:
                right = self._parent[right]
        return self._end_len[left]

    def computed_at(self, node: int) -> int:
        """When a segment became readable, as a count of prompts completed: SGLang lists siblings so."""
        return self._computed_at[node]

    # ---- what requests take and give

    def acquire(self, request: int, private_len: int) -> int:
        """Locks the path of a request, adds what is missing of it and takes `private_len` tokens for itself.

        What others are just computing of its path is computed by it too, into a copy. New parts can be read
        from `computed` on.

        Returns:
            Tokens of the copy.
        """
        copy = self.in_flight_len(request)
        leaf = node = self._leaf[request]
        kept = self._take_kept(request)
        missing = 0
        while node and not self._held[node]:
            missing += self._seg_len[node]
            node = self._parent[node]
        missing += self._seg_len[node] - self._held[node]
        # Lock what is there first, so that making room cannot evict it.
        self._lock(node)
        taken = missing + private_len - kept + copy
        self._make_room(taken)
        self.free -= taken
        self.private += private_len - kept + copy
        self.locked += missing
        added = leaf
        while added != node:  # the new segments: each has one reader, the segment (or request) below it
            self._held[added] = self._seg_len[added]
            self._readers[added] = 1
            added = self._parent[added]
        self._held[node] = self._seg_len[node]
        return copy

    def computed(self, request: int, copy: int) -> None:
        """The prompt of a request is complete: others can read it from now on; its copy is dropped."""
        node = self._leaf[request]
        self._num_computed += 1
        while self._ready[node] < self._seg_len[node]:
            self._ready[node] = self._seg_len[node]
            self._computed_at[node] = self._num_computed
            node = self._parent[node]
        self.private -= copy
        self.free += copy

    def grow(self, num_tokens: int) -> None:
        """Takes tokens for decode; the caller has checked `available`."""
        self._make_room(num_tokens)
        self.free -= num_tokens
        self.private += num_tokens

    def release(self, request: int, private_len: int, *, keep: bool, goes_on: bool = False) -> None:
        """Unlocks a request's path.

        Args:
            private_len: its own tokens: they stay cached (`keep`) or are freed at once.
            goes_on: it was retracted and will need them.
        """
        self.private -= private_len
        if keep and private_len:
            self.evictable += private_len
            if goes_on:
                self._own_kept[request] = private_len
                assert self._demand is not None, "only who knows the demand keeps them"
                self._demand.unlocked(-request - 1)
            else:
                self._cold.append((-request - 1, private_len))
        else:
            self.free += private_len
        node = self._leaf[request]
        while True:
            self._readers[node] -= 1
            if self._readers[node]:
                return
            self.locked -= self._held[node]
            self.evictable += self._held[node]
            self._unlocked(node)
            node = self._parent[node]

    # ---- inside

    def _take_kept(self, request: int) -> int:
        kept = self._own_kept.pop(request, 0)
        self.evictable -= kept
        self.private += kept
        return kept

    def _lock(self, node: int) -> None:
        while True:
            self._readers[node] += 1
            if self._readers[node] > 1:
                return
            self.evictable -= self._held[node]
            self.locked += self._held[node]
            self._stamp[node] += 1
            node = self._parent[node]

    def _unlocked(self, node: int) -> None:
        if self._demand is not None and self._demand.first(node) is not None:
            self._demand.unlocked(node)
        else:
            self._cold.append((node, self._stamp[node]))

    def _make_room(self, num_tokens: int) -> None:
        while self.free < num_tokens:
            if self._cold:
                self._evict_cold()
                continue
            wanted = None if self._demand is None else self._demand.pop_last(self._is_evictable)
            assert wanted is not None, (
                f"pool of {self.capacity} tokens: {num_tokens} asked, {self.free} free, nothing to evict"
            )
            self._cut(wanted, num_tokens - self.free)

    def _evict_cold(self) -> None:
        node, stamp = self._cold.popleft()
        if node < 0:  # what a request left behind; the stamp is its length
            self.free += stamp
            self.evictable -= stamp
            return
        if self._readers[node] or self._stamp[node] != stamp or not self._held[node]:
            return
        if self._demand is not None and self._demand.first(node) is not None:  # somebody needs it again
            self._demand.unlocked(node)
            return
        self._cut(node, self._held[node])

    def _cut(self, node: int, num_tokens: int) -> None:
        """Evict so many tokens of a segment, or of what a request will need again, from its end."""
        held = self._own_kept[-node - 1] if node < 0 else self._held[node]
        cut = min(-(-num_tokens // self._least_cut) * self._least_cut, held)
        if node < 0:
            self._own_kept[-node - 1] = held - cut
            if cut == held:
                del self._own_kept[-node - 1]
        else:
            self._held[node] = self._ready[node] = held - cut
        self.free += cut
        self.evictable -= cut
        if cut < held:
            self._unlocked(node)

    def _is_evictable(self, node: int) -> bool:
        """Whether a noted segment, or own part of a request, is still cached and held by nobody."""
        if node < 0:
            return -node - 1 in self._own_kept
        return not self._readers[node] and self._held[node] > 0

    def check_integrity(self) -> None:
        """Recounts everything from the segments.

        Raises:
            AssertionError: the counters disagree with the segments.
        """
        nodes = range(1, len(self._parent))
        locked = sum(self._held[i] for i in nodes if self._readers[i])
        cached = sum(self._held[i] for i in nodes if not self._readers[i])
        leftovers = sum(length for node, length in self._cold if node < 0) + sum(self._own_kept.values())
        assert locked == self.locked, f"locked {self.locked}, counted {locked}"
        assert cached + leftovers == self.evictable, (
            f"evictable {self.evictable}, counted {cached + leftovers}"
        )
        total = self.free + self.private + self.locked + self.evictable
        assert total == self.capacity, f"{total} tokens accounted for in a pool of {self.capacity}"
        assert min(self.free, self.private, self.evictable) >= 0, (self.free, self.private, self.evictable)
        short = [
            i for i in nodes if self._held[i] and self._held[self._parent[i]] < self._seg_len[self._parent[i]]
        ]
        assert not short, f"segment {short[:1]} is cached without all of its parent"


class Demand:
    """Who waits for what: for each segment, the first in the plan of the waiting requests that need it.

    A request's own part has the number minus request - 1. Waiting ranks stand in the order of the tree, so
    those of a segment are a range, and the lowest of a range is found in logarithmic time.
    """

    def __init__(self, tree: SegmentTree) -> None:
        num_nodes, n = len(tree.parent), len(tree.leaf)
        first, last = tree.spans
        self._first, self._last = first.tolist(), last.tolist()
        self._place: list[int] = tree.place.tolist()
        self._depth: list[int] = tree.end_len.tolist()
        self._size = 1 << max(n - 1, 1).bit_length()
        self._lowest: list[float] = [math.inf] * (2 * self._size)
        self._num_waiting = 0
        self._heap: list[tuple[float, int, int]] = []  # (minus first rank, minus depth, segment)
        assert len(self._first) == num_nodes

    def __len__(self) -> int:
        return self._num_waiting

    def expect(self, request: int, rank: float) -> None:
        """It waits."""
        self._num_waiting += self._lowest[self._size + self._place[request]] == math.inf
        self._set(request, rank)

    def forget(self, request: int) -> None:
        """It waits no longer."""
        self._num_waiting -= self._lowest[self._size + self._place[request]] < math.inf
        self._set(request, math.inf)

    def first(self, node: int) -> float | None:
        """The lowest rank of those that wait for it; None where nobody does."""
        if node < 0:
            rank = self._lowest[self._size + self._place[-node - 1]]
            return None if rank == math.inf else rank
        lowest, low, high = math.inf, self._first[node] + self._size, self._last[node] + self._size
        tree = self._lowest
        while low < high:
            if low & 1:
                lowest = min(lowest, tree[low])
                low += 1
            if high & 1:
                high -= 1
                lowest = min(lowest, tree[high])
            low >>= 1
            high >>= 1
        return None if lowest == math.inf else lowest

    def unlocked(self, node: int) -> None:
        """It can be evicted, and somebody waits for it."""
        depth = self._depth[node] if node >= 0 else 1 << 60
        first = self.first(node)
        heapq.heappush(self._heap, (-math.inf if first is None else -first, -depth, node))

    def pop_last(self, is_evictable: Callable[[int], bool]) -> int | None:
        """Takes the one that is needed last, children before parents; None where there is none.

        Args:
            is_evictable: asked whether a noted one still is.
        """
        while self._heap:
            noted, _, node = heapq.heappop(self._heap)
            if not is_evictable(node):
                continue
            first = self.first(node)
            now = -math.inf if first is None else -first
            if now != noted:  # others came or went meanwhile
                self.unlocked(node)
                continue
            return node
        return None

    def _set(self, request: int, rank: float) -> None:
        tree, at = self._lowest, self._size + self._place[request]
        tree[at] = rank
        at >>= 1
        while at:
            lowest = min(tree[2 * at], tree[2 * at + 1])
            if tree[at] == lowest:
                return
            tree[at] = lowest
            at >>= 1
