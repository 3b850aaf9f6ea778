"""SGLang's own rules in the modelled engine: its waiting queues, and admission by `new_token_ratio`.

Each queue stands after `arrange` as SGLang's would; the tests compare them with
`SchedulePolicy.calc_priority`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from sglang_blend.cost.segments import SegmentTree
from sglang_blend.cost.sm_split import SplitWork
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.rules import Source
from sglang_blend.simulate.simulated_job import RequestLists

# SGLang 0.5.17, `schedule_policy.py`: lpm matches no more than so many waiting requests; one that matches at
# most so many tokens of the cache, and so many of another such request, waits for that one.
_MOST_MATCHED = 128
_LITTLE_CACHED = _MUCH_SHARED = 32
# SGLANG_RETRACT_DECODE_STEPS.
_STEPS_AFTER_RETRACTION = 20


class StockQueue:
    """`fcfs`: requests in the order they came; one that was retracted joins the end."""

    def __init__(self, tree: SegmentTree) -> None:
        self._queue: dict[int, None] = {}  # in order, with removal from anywhere
        self._parent, _, self._end_len, self._leaf = tree.lists

    def __len__(self) -> int:
        return len(self._queue)

    def arrange(self, pool: KvPool) -> None:
        """Before a pass; the order stands."""

    def peek(self) -> int | None:
        """The first of the queue."""
        return next(iter(self._queue), None)

    def pop(self, request: int) -> None:
        """Takes the request that `peek` named."""
        del self._queue[request]

    def add(self, request: int) -> None:
        """A request joins the end of the queue."""
        self._queue[request] = None

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


STOCK_QUEUES: dict[str, type[StockQueue]] = {
    "fcfs": StockQueue,
    "lpm": LongestPrefixQueue,
    "dfs-weight": DfsWeightQueue,
}


class StockRules:
    """See `simulate.rules.Rules`: SGLang's queue, and room by what running requests may still generate.

    A share of what they may generate is held back, `new_token_ratio`, which falls while all goes well.

    SGLang 0.5.17: `PrefillAdder.add_one_req`, `NewTokenRatioTracker`.
    """

    def __init__(
        self,
        pool: KvPool,
        source: Source,
        requests: RequestLists,
        tree: SegmentTree,
        config: EngineConfig,
        generated: dict[int, int],
    ) -> None:
        """Args: generated: output tokens of requests that were retracted."""
        self.is_full = False
        self._pool, self._source, self._requests = pool, source, requests
        self._config = config
        self._queue = STOCK_QUEUES[config.queue](tree)
        self._ratio = config.ratio_start if config.admission == "ratio" else 1.0
        self._decay = (config.ratio_start - config.ratio_end) / config.ratio_decay_steps
        self._generated = generated
        self._step_no = 0
        self._cap_end: dict[int, int] = {}  # of what runs: the decode step in which it reaches its cap
        self._reserved = 0.0
        self._num_added = 0

    @property
    def has_waiting(self) -> bool:
        """See `Rules`."""
        self._take_in()
        return len(self._queue) > 0

    def begin_pass(self, *, num_decoding: int, chunk_tokens: int) -> int:
        """See `Rules`."""
        self._take_in()
        self._queue.arrange(self._pool)
        left = np.fromiter(self._cap_end.values(), np.float64, len(self._cap_end)) - self._step_no
        may_generate = float(np.clip(left, 0.0, self._config.clip_new_tokens).sum())
        # A step of all that run stays possible beside prefill, which SGLang sees to by retracting.
        self._reserved = max(num_decoding + self._ratio * may_generate, len(self._cap_end))
        return chunk_tokens

    def next_admitted(self) -> int | None:
        """See `Rules`."""
        self._take_in()
        request = self._queue.peek()
        if request is None:
            return None
        generated = self._generated[request]
        _, found = self._pool.place(request)
        extend_len = max(self._requests.prompt_len[request] + generated - found, 1)
        may_generate = max(self._requests.cap[request] - generated, 0)
        room = self._pool.available - self._reserved
        relocked = sum(tokens for _, tokens in self._pool.unlocked_prefix(request))
        reserved = min(may_generate, self._config.clip_new_tokens) + 1
        # Where nothing runs nothing will ever make more room: retraction sorts out the rest.
        if extend_len + reserved >= room - relocked and self._cap_end:
            self.is_full = True
            return None
        self._queue.pop(request)
        self._pool.forget(request)
        self._cap_end[request] = self._step_no + may_generate
        self._reserved += reserved
        return request

    def computed(self, request: int) -> None:
        """See `Rules`; the pool knows."""

    def finish(self, request: int, output_len: int) -> None:
        """See `Rules`."""
        del self._cap_end[request]
        self._source.done(request)

    def retracting(self, request: int) -> None:
        """See `Rules`."""
        del self._cap_end[request]
        self._add(request)

    def on_decode(self, num_steps: int) -> None:
        """See `Rules`; SGLang 0.5.17, `Scheduler.update_running_batch`."""
        self._step_no += num_steps
        if self._config.admission == "ratio":
            self._ratio = max(self._ratio - num_steps * self._decay, self._config.ratio_end)

    def on_retracted(self, generated: int, caps: int, num_running: int) -> None:
        """See `Rules`; SGLang 0.5.17, `estimate_new_token_ratio_after_retract`."""
        if self._config.admission == "ratio":
            self._ratio = min(1.0, (generated + _STEPS_AFTER_RETRACTION * num_running) / (caps + 1))

    def split_work(self) -> SplitWork | None:
        """See `Rules`; SGLang divides by the number of decoding requests."""
        return None

    def _take_in(self) -> None:
        for row in self._source.take(len(self._cap_end), len(self._queue)):
            self._add(row)

    def _add(self, request: int) -> None:
        self._queue.add(request)
        self._num_added += 1
        self._pool.expect(request, self._num_added)  # heeded where eviction is asked to
