"""The waiting queues of SGLang's own cache-aware policies, in the simulated engine.

Each stands after `arrange` as SGLang's would; the tests compare them with `SchedulePolicy.calc_priority`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sglang_blend.core.cost_model import IntArray
from sglang_blend.cost.segments import SegmentTree
from sglang_blend.simulate.kv_pool import KvPool

# SGLang 0.5.17, `schedule_policy.py`: lpm matches no more than so many waiting requests; one that matches at
# most so many tokens of the cache, and so many of another such request, waits for that one.
_MOST_MATCHED = 128
_LITTLE_CACHED = _MUCH_SHARED = 32


class StockQueue:
    """Requests in the order of the last sort; a retracted one joins the end."""

    def __init__(self, sequence: IntArray, tree: SegmentTree) -> None:
        self._queue = dict.fromkeys(sequence.tolist())  # in order, with removal from anywhere
        self._parent, _, self._end_len, self._leaf = tree.lists

    def peek(self) -> int | None:
        """The first of the queue."""
        return next(iter(self._queue), None)

    def pop(self, request: int) -> None:
        """Takes the request that `peek` named."""
        del self._queue[request]

    def give_back(self, request: int) -> None:
        """A retracted request joins the end of the queue."""
        self._queue[request] = None

    def release(self, request: int) -> None:
        """Nothing depends on who runs."""

    def _path(self, node: int) -> list[int]:
        """From a segment up to the root, without it."""
        path = []
        while node:
            path.append(node)
            node = self._parent[node]
        return path


class LongestPrefixQueue(StockQueue):
    """`lpm`: before each pass, those that match most of the cache come first.

    Of several that share a prefix nobody has computed, one goes and the others wait (SGLang's in-batch prefix
    caching). With more than 128 waiting nothing is matched and the queue stays as it is.

    SGLang 0.5.17: `SchedulePolicy._determine_active_policy`, `._compute_prefix_matches`,
    `._sort_by_longest_prefix`.
    """

    def arrange(self, pool: KvPool) -> None:
        """Sort the queue by what is cached now."""
        if len(self._queue) > _MOST_MATCHED:
            return
        leads: set[int] = {0}  # segments of requests that others may have to wait for
        key: dict[int, float] = {}
        for request in self._queue:
            cached = self._end_len[pool.last_computed(request)]
            key[request] = -cached
            if cached <= _LITTLE_CACHED:
                path = self._path(self._leaf[request])
                shared = max(self._end_len[node] for node in (*path, 0) if node in leads)
                if shared >= _MUCH_SHARED:
                    key[request] = 1.0
                else:
                    leads.update(path)
        self._queue = dict.fromkeys(sorted(self._queue, key=key.__getitem__))


class DfsWeightQueue(StockQueue):
    """`dfs-weight`: before each pass, depth first through the cache, where more requests wait first.

    Every waiting request is matched, however many there are, so a pass takes time in proportion to them.

    SGLang 0.5.17: `SchedulePolicy._sort_by_dfs_weight`, `._get_dfs_priority`.
    """

    def arrange(self, pool: KvPool) -> None:
        """Sort the queue by what is cached now."""
        waiting: dict[int, list[int]] = defaultdict(list)  # by the segment that they match up to
        for request in self._queue:
            waiting[pool.last_computed(request)].append(request)
        weight: dict[int, int] = defaultdict(int)
        children: dict[int, list[int]] = defaultdict(list)  # only those under which somebody waits
        for node, requests in waiting.items():
            for above in self._path(node):
                if above not in weight:
                    children[self._parent[above]].append(above)
                weight[above] += len(requests)
        self._queue = dict.fromkeys(
            request for node in _children_first(children, weight, pool) for request in waiting.get(node, ())
        )


def _children_first(children: dict[int, list[int]], weight: dict[int, int], pool: KvPool) -> Iterable[int]:
    """All segments, each after those below it; of siblings the heavier first, then the older."""
    found, stack = [], [0]
    while stack:  # parents first and siblings in reverse, which is what is wanted, backwards
        node = stack.pop()
        found.append(node)
        stack += sorted(children.get(node, ()), key=lambda child: (-weight[child], pool.computed_at(child)))
    return reversed(found)


STOCK_QUEUES: dict[str, type[LongestPrefixQueue | DfsWeightQueue]] = {
    "lpm": LongestPrefixQueue,
    "dfs-weight": DfsWeightQueue,
}
