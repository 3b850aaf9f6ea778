"""A job on many modelled engines: what the cut and work stealing are worth at any scale. Simulated.

    parts = cut(workload, shares=[1.0] * 8)
    result = simulate_cluster(job, schedule, parts, cost, engine, work_s=workload.leaf_work_s[tree.leaf_of_row])

Every replica is an engine of `perf.simulated_engine` with its own KV pool and clock; the one whose clock is
behind steps next. Each holds a window of requests from the same `WorkQueue` that the real driver uses.
Messages between driver and replicas take no time here.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from sglang_blend.cluster.partition import Partition
from sglang_blend.cluster.window import window_of
from sglang_blend.cluster.work_queue import WorkQueue
from sglang_blend.core.cost import FloatArray
from sglang_blend.core.request import Schedule
from sglang_blend.perf.engine_config import EngineConfig
from sglang_blend.perf.roofline import RooflineCost
from sglang_blend.perf.simulated_engine import SimulatedEngine
from sglang_blend.perf.simulated_job import SimulatedJob


@dataclass(frozen=True, kw_only=True)
class ClusterSimulation:
    """What one job takes on so many replicas.

    Attributes:
        makespan_s: first step of any to last token of any.
        end_s: (N,) float64, when each replica had nothing more to do.
        computed_tokens: prompt tokens computed by all of them on first admission.
        sharing_kept: tokens saved by the caches over those that one cache of any size could save.
        retractions: requests sent back to a queue.
        num_steals, num_stolen: how often a replica took from another, and how many requests.
    """

    makespan_s: float
    end_s: FloatArray
    computed_tokens: int
    sharing_kept: float
    retractions: int
    num_steals: int
    num_stolen: int

    @property
    def busy_ratio(self) -> float:
        """Mean time of a replica over the makespan, 0 to 1; the rest is waiting for the slowest."""
        return float(self.end_s.mean() / self.makespan_s) if self.makespan_s else 1.0


def simulate_cluster(
    job: SimulatedJob,
    schedule: Schedule,
    parts: Partition,
    cost: RooflineCost,
    config: EngineConfig,
    *,
    work_s: FloatArray,
    window: int = 2048,
    steal: bool = True,
) -> ClusterSimulation:
    """Run a schedule on as many engines as there are parts.

    Args:
        job: what is run; what is believed of its lengths is the schedule's.
        work_s: (n,) float64, expected seconds of each row, for the queue.
        window: requests that a replica holds at a time, running and waiting.
        steal: whether an idle replica takes from others.
    """
    job = job.believing(schedule)
    queue = WorkQueue(
        schedule.sequence, parts.of_row, unit=schedule.unit, work_s=work_s, num_replicas=parts.num_parts
    )
    engines = []
    for replica in range(parts.num_parts):
        feed = _WindowFeed(queue, replica, schedule, window, steal=steal)
        engines.append(SimulatedEngine(job, feed, cost, config))
    clock = [(0.0, replica) for replica in range(len(engines))]
    while clock:
        _, replica = heapq.heappop(clock)
        engine = engines[replica]
        if engine.has_work:  # one that has none gets none later: what waits elsewhere was its to take
            engine.step()
            heapq.heappush(clock, (engine.now_s, replica))
    results = [engine.result() for engine in engines]
    end_s = np.array([engine.now_s for engine in engines])
    computed = sum(result.computed_tokens for result in results)
    total = int(job.tree.prompt_len.sum())
    possible = total - job.tree.unique_tokens
    return ClusterSimulation(
        makespan_s=float(end_s.max(initial=0.0)),
        end_s=end_s,
        computed_tokens=computed,
        sharing_kept=(total - computed) / possible if possible else 1.0,
        retractions=sum(result.retractions for result in results),
        num_steals=queue.num_steals,
        num_stolen=queue.num_stolen,
    )


class _WindowFeed:
    """The requests that the driver has handed to one replica: `perf.feed.Feed`."""

    def __init__(
        self, queue: WorkQueue, replica: int, schedule: Schedule, window: int, *, steal: bool
    ) -> None:
        self._queue, self._replica, self._window = queue, replica, window
        self._rank = schedule.rank
        self._takes = queue.take if steal else queue.take_own
        self._held: list[tuple[int, int]] = []  # (rank, row), a heap
        self._num_running = 0

    def peek(self) -> int | None:
        """The first in the plan of those that wait here."""
        limit = window_of(
            self._window,
            self._num_running,
            num_waiting=self._queue.num_waiting,
            num_replicas=self._queue.num_replicas,
        )
        while self._num_running + len(self._held) < limit:
            row = self._takes(self._replica)
            if row is None:
                break
            heapq.heappush(self._held, (int(self._rank[row]), row))
        return self._held[0][1] if self._held else None

    def pop(self, request: int) -> None:
        """It runs now."""
        heapq.heappop(self._held)
        self._num_running += 1

    def give_back(self, request: int) -> None:
        """Retracted; it stays with this replica."""
        heapq.heappush(self._held, (int(self._rank[request]), request))
        self._num_running -= 1

    def release(self, request: int) -> None:
        """Finished."""
        self._num_running -= 1
