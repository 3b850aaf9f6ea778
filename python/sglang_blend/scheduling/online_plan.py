"""A plan for requests that come without hints: a server's waiting queue, planned pool by pool.

Planning is for a set of requests that are all there. A waiting queue is not, so it is cut into pools. What
waits when a pool runs out becomes the next pool and is planned by `core` as a job would be; so planning
costs each request about the same, however many wait. A request that comes later joins the running pool if
it shares a prefix with one of it (beyond what the whole pool shares) and goes right behind that one; any
other waits for the next pool. A pool lets in no more than four times what it has planned, so nobody waits
for ever.

No clock and no hash order: replicas of a scheduler that see the same requests make the same plan.

Source: BlendServe, arXiv:2411.16102, section 7 (blend inside a pool, queue what comes later); the joining
rule is ours.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import CostModel
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.output_length import OutputEstimate
from sglang_blend.core.request import Side
from sglang_blend.core.table_builder import TableBuilder
from sglang_blend.request import Prepared, TokenIds
from sglang_blend.scheduling.hints import PlannedHints
from sglang_blend.scheduling.in_flight import common_prefix_len

# Sharing fewer tokens than this is no reason to jump the queue; SGLang's own in-batch check uses 32 too.
JOIN_LEN = 32
# The next pool is planned when this few of the present one wait, so that both its ends stay in sight.
_NEARLY_EMPTY = 64
# Requests that may join a pool, for each that it was planned with.
_MOST_JOINED = 4
# Fewer requests than this run in order of arrival: there is nothing to plan.
_LEAST_PLANNED = 8
_LARGEST_ID = 2**31 - 1


class Newcomer(NamedTuple):
    """What planning needs of a request.

    `namespace` keeps requests apart that cannot share KV (LoRA adapter, extra key). Lengths are expected
    output tokens, the mean and the quantile to be safe with.
    """

    rid: str
    token_ids: array[int]
    max_new_tokens: int
    mean_len: float
    high_len: float
    namespace: str


class Place(NamedTuple):
    """Where a request goes: its pool, its rank there, and what `Hints` says of a planned one."""

    pool: int
    rank: float
    side: Side
    density: float
    root_density: float
    shared_len: int = 0


@dataclass
class _Pool:
    number: int = 0
    size: int = 0
    joined: int = 0
    waiting: set[str] = field(default_factory=set)
    # (namespace, token ids, rid) of everyone planned, sorted: neighbours share the longest prefixes.
    in_order: list[tuple[str, array[int], str]] = field(default_factory=list)
    place: dict[str, Place] = field(default_factory=dict)
    common_len: int = 0


class OnlinePlan:
    """Places requests as they come. `order` and `cost` are those of `core.orders.make_schedule`."""

    def __init__(self, order: str, cost: CostModel | None, *, page_size: int = 1) -> None:
        self._config = PlanConfig(order=order if cost is not None else "dfs", page_size=page_size)
        self._cost = cost
        self._pool = _Pool()
        self._later: dict[str, Newcomer] = {}
        self._arrived = 0

    def arrive(self, newcomer: Newcomer) -> Place:
        """A request has come; the place it has until a pool with it is planned."""
        neighbour = self._neighbour(newcomer)
        self._arrived += 1
        if neighbour is None:
            self._later[newcomer.rid] = newcomer
            return Place(self._pool.number + 1, self._arrived, Side.NONE, np.inf, np.inf)
        self._pool.joined += 1
        place = self._pool.place[newcomer.rid] = self._pool.place[neighbour]
        self._pool.waiting.add(newcomer.rid)
        insort(self._pool.in_order, _sort_key(newcomer))
        return place

    def leave(self, rid: str) -> None:
        """A request waits no longer."""
        self._pool.waiting.discard(rid)
        self._later.pop(rid, None)

    def __len__(self) -> int:
        """Requests that wait, as far as it knows."""
        return len(self._later) + len(self._pool.waiting)

    def clear(self) -> None:
        """Nobody waits."""
        self._later.clear()
        self._pool.waiting.clear()

    def next_pool(self) -> dict[str, Place]:
        """Plan the next pool if the present one is nearly empty: the new places, else nothing."""
        if len(self._later) < _LEAST_PLANNED or len(self._pool.waiting) > _NEARLY_EMPTY:
            return {}
        newcomers = list(self._later.values())
        self._later.clear()
        places, sequence = self._plan(newcomers, self._pool.number + 1)
        left_over = {rid: self._pool.place[rid] for rid in self._pool.waiting}
        self._pool = _Pool(
            number=self._pool.number + 1, size=len(newcomers), waiting=set(left_over), place=left_over
        )
        for newcomer, place in zip(newcomers, places, strict=True):
            self._pool.place[newcomer.rid] = place
            self._pool.waiting.add(newcomer.rid)
        # All but equal prompts are in order already: long ones that begin alike are slow to compare.
        self._pool.in_order = sorted(_sort_key(newcomers[row]) for row in sequence)
        first, last = self._pool.in_order[0], self._pool.in_order[-1]
        if first[0] == last[0]:
            self._pool.common_len = common_prefix_len(first[1], last[1])
        return dict(zip((newcomer.rid for newcomer in newcomers), places, strict=True))

    def _neighbour(self, newcomer: Newcomer) -> str | None:
        """The request of the pool that shares the longest prefix, if it is long enough to join."""
        pool = self._pool
        if pool.joined >= _MOST_JOINED * pool.size:
            return None
        at = bisect_left(pool.in_order, _sort_key(newcomer))
        best, best_len = None, pool.common_len + JOIN_LEN - 1
        for namespace, token_ids, rid in pool.in_order[max(at - 1, 0) : at + 1]:
            if namespace == newcomer.namespace:
                shared = common_prefix_len(token_ids, newcomer.token_ids)
                if shared > best_len:
                    best, best_len = rid, shared
        return best

    def _plan(self, newcomers: list[Newcomer], pool: int) -> tuple[list[Place], list[int]]:
        """The place of each, and their numbers in the order of their prompts."""
        builder = TableBuilder(namespaces=sorted({newcomer.namespace for newcomer in newcomers}))
        table = builder.extend(
            Prepared(_plannable(n.token_ids), n.max_new_tokens, fixed_output=False, namespace=n.namespace)
            for n in newcomers
        ).table()
        lengths = OutputEstimate(
            np.array([round(n.mean_len) for n in newcomers], np.int64),
            np.array([round(n.high_len) for n in newcomers], np.int64),
            0,
        )
        workload = make_workload(table, self._cost, self._config, lengths=lengths)
        schedule = make_schedule(table, self._cost, self._config, workload=workload)
        hints = PlannedHints(workload, schedule)
        density, rest = hints.density.tolist(), hints.root_density.tolist()
        shared = hints.shared_len.tolist()
        side = [Side(number) for number in schedule.side.tolist()]
        places = [
            Place(pool, rank, side[row], density[row], rest[row], shared[row])
            for row, rank in enumerate(schedule.rank.tolist())
        ]
        return places, workload.tree.sequence.tolist()


def _plannable(token_ids: array[int]) -> TokenIds:
    """The ids as a `RequestTable` takes them; SGLang also takes no token at all, and ids of any size."""
    if not token_ids:
        return [0]
    return (np.frombuffer(token_ids, np.int64) & _LARGEST_ID).astype(np.int32)


def _sort_key(newcomer: Newcomer) -> tuple[str, array[int], str]:
    return newcomer.namespace, newcomer.token_ids, newcomer.rid
