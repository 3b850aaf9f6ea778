"""The KV pool of the simulated engine and the radix cache that lives in it.

The cache holds whole segments of the `SegmentTree`, not tokens. Segments on the path of an admitted request
are locked; unlocked ones, and what finished requests leave behind, stay until the room is needed.

Eviction keeps SGLang's leaf-first order without a heap: a segment becomes evictable at the moment its last
reader finishes, never before its children do, so the order of unlocking is the LRU order with children
before parents. With demand-aware eviction, segments that waiting requests still need go only after
everything else.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from sglang_blend.cost.segments import SegmentTree

EvictionPolicy = Literal["lru", "demand"]
_LEFTOVER = -1  # an entry that no waiting request can match: private prompt and output of a finished request


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
        self._demand_aware = eviction == "demand"
        self._parent, self._seg_len, self._end_len, self._leaf = tree.lists
        num_nodes = len(self._parent)
        self._present = bytearray(num_nodes)
        self._present[0] = 1
        self._readers = [0] * num_nodes  # requests locked here plus children that are locked
        self._readers[0] = 1  # the root is never evicted
        self._waiting: list[int] = tree.num_requests.tolist()
        self._in_flight = bytearray(num_nodes)  # present, and its tokens are still being computed
        self._computed_at = [0] * num_nodes
        self._num_computed = 0
        self._stamp = [0] * num_nodes  # changes when a segment is locked, which makes its queue entry stale
        self._cold: deque[tuple[int, int, int]] = deque()  # (node, tokens, stamp), next to evict first
        self._wanted: deque[tuple[int, int, int]] = deque()  # as _cold; only demand-aware

    @property
    def available(self) -> int:
        """Tokens that can be had, by evicting if need be."""
        return self.free + self.evictable

    @property
    def in_use(self) -> int:
        """Tokens of admitted requests, shared segments once."""
        return self.private + self.locked

    def match(self, request: int) -> tuple[int, int]:
        """Looks a prompt up.

        Returns:
            Cached tokens at its start, and the tokens among these that are evictable now and would be locked.
        """
        node = self._leaf[request]
        while not self._present[node]:
            node = self._parent[node]
        cached = self._end_len[node]
        relock = 0
        while not self._readers[node]:
            relock += self._seg_len[node]
            node = self._parent[node]
        return cached, relock

    def last_computed(self, request: int) -> int:
        """The deepest segment of a prompt that can be read: cached, and not just being computed."""
        node = self._leaf[request]
        while not self._present[node] or self._in_flight[node]:
            node = self._parent[node]
        return node

    def computed_at(self, node: int) -> int:
        """When a segment became readable, as a count of prompts completed: SGLang lists siblings so."""
        return self._computed_at[node]

    def in_flight(self, request: int) -> tuple[int, int]:
        """Which of a request's present segments are being computed for others.

        Returns:
            Their tokens, and the deepest of them, 0 when there is none.
        """
        node = self._leaf[request]
        while not self._present[node]:
            node = self._parent[node]
        deepest = node if self._in_flight[node] else 0
        tokens = 0
        while self._in_flight[node]:
            tokens += self._seg_len[node]
            node = self._parent[node]
        return tokens, deepest

    def is_in_flight(self, node: int) -> bool:
        """Whether the segment's tokens are still being computed."""
        return bool(self._in_flight[node])

    def computed(self, request: int) -> None:
        """The prompt of a request is complete: its segments can be read by others from now on."""
        node = self._leaf[request]
        self._num_computed += 1
        while self._in_flight[node]:
            self._in_flight[node] = 0
            self._computed_at[node] = self._num_computed
            node = self._parent[node]

    def drop_copy(self, num_tokens: int) -> None:
        """Frees private tokens that turned out to be in the cache."""
        self.private -= num_tokens
        self.free += num_tokens

    def acquire(self, request: int, private_len: int) -> int:
        """Locks the path of a request, adds its missing segments and takes `private_len` tokens for itself.

        The new segments are in flight until `computed`.

        Returns:
            Tokens of the prompt's shared part that were cached before.
        """
        leaf = self._leaf[request]
        node = leaf
        missing = 0
        while not self._present[node]:
            missing += self._seg_len[node]
            node = self._parent[node]
        cached = self._end_len[node]
        # Lock what is there first, so that making room cannot evict it.
        self._lock(node)
        self._make_room(missing + private_len)
        self.free -= missing + private_len
        self.private += private_len
        added = leaf
        while added != node:  # the new segments: each has one reader, the segment (or request) below it
            self._present[added] = self._in_flight[added] = 1
            self._readers[added] = 1
            self.locked += self._seg_len[added]
            added = self._parent[added]
        while leaf:
            self._waiting[leaf] -= 1
            leaf = self._parent[leaf]
        return cached

    def grow(self, num_tokens: int) -> None:
        """Takes tokens for decode; the caller has checked `available`."""
        self._make_room(num_tokens)
        self.free -= num_tokens
        self.private += num_tokens

    def release(self, request: int, private_len: int, *, keep: bool) -> None:
        """Unlocks a request's path; its private tokens stay cached (`keep`) or are freed at once
        (retraction).
        """
        self.private -= private_len
        if keep and private_len:
            self._cold.append((_LEFTOVER, private_len, 0))
            self.evictable += private_len
        else:
            self.free += private_len
        node = self._leaf[request]
        if not keep:  # it waits again
            up = node
            while up:
                self._waiting[up] += 1
                up = self._parent[up]
        while True:
            self._readers[node] -= 1
            if self._readers[node]:
                return
            length = self._seg_len[node]
            self.locked -= length
            self.evictable += length
            queue = self._wanted if self._demand_aware and self._waiting[node] else self._cold
            queue.append((node, length, self._stamp[node]))
            node = self._parent[node]

    def _lock(self, node: int) -> None:
        while True:
            self._readers[node] += 1
            if self._readers[node] > 1:
                return
            self.evictable -= self._seg_len[node]
            self.locked += self._seg_len[node]
            self._stamp[node] += 1
            node = self._parent[node]

    def _make_room(self, num_tokens: int) -> None:
        while self.free < num_tokens:
            queue = self._cold or self._wanted
            assert queue, (
                f"pool of {self.capacity} tokens: {num_tokens} asked, {self.free} free, nothing to evict"
            )
            node, length, stamp = queue.popleft()
            if node != _LEFTOVER:
                if self._readers[node] or not self._present[node] or self._stamp[node] != stamp:
                    continue
                if self._demand_aware and queue is self._cold and self._waiting[node]:
                    self._wanted.append((node, length, stamp))  # a retracted request needs it again
                    continue
                self._present[node] = 0
                self._stamp[node] += 1
            self.free += length
            self.evictable -= length

    def check_integrity(self) -> None:
        """Recounts everything from the segments.

        Raises:
            AssertionError: the counters disagree with the segments.
        """
        nodes = range(1, len(self._parent))
        locked = sum(self._seg_len[i] for i in nodes if self._present[i] and self._readers[i])
        cached = sum(self._seg_len[i] for i in nodes if self._present[i] and not self._readers[i])
        leftovers = sum(length for node, length, _ in self._cold if node == _LEFTOVER)
        assert locked == self.locked, f"locked {self.locked}, counted {locked}"
        assert cached + leftovers == self.evictable, (
            f"evictable {self.evictable}, counted {cached + leftovers}"
        )
        total = self.free + self.private + self.locked + self.evictable
        assert total == self.capacity, f"{total} tokens accounted for in a pool of {self.capacity}"
        assert min(self.free, self.private, self.evictable) >= 0, (self.free, self.private, self.evictable)
        orphan = [i for i in nodes if self._present[i] and not self._present[self._parent[i]]]
        assert not orphan, f"segment {orphan[:1]} is cached without its parent"
