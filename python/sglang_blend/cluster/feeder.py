"""Feeds a job to the replicas of a fleet: `plan.feed.Feeder`.

Each place of the fleet has a part of the job and feeds it to whatever replica is there; when its part is
done it takes from others. What a lost replica was at goes back to the queue, so every request is answered
once: an answer counts when the driver has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sglang_blend.cluster.fleet import Fleet, Replica, ReplicaLost
from sglang_blend.cluster.partition import Partition, cut
from sglang_blend.cluster.window import window_of
from sglang_blend.cluster.work_queue import WorkQueue
from sglang_blend.core.cost_model import FloatArray
from sglang_blend.plan.feed import Phase, RunRow
from sglang_blend.plan.job_plan import JobPlan, cost_of

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 30.0
_MOST_TOLD = 16

RunOne = Callable[[int, RunRow], Awaitable[None]]


@dataclass
class PlaceCounts:
    """What became of the requests of one place.

    Attributes:
        num_done: answered there.
        num_retries: sent again, there or elsewhere, because its replica was lost.
        first_s, last_s: when the first was handed out and the last was answered, seconds since `feed` began.
    """

    num_done: int = 0
    num_retries: int = 0
    first_s: float | None = None
    last_s: float = 0.0


@dataclass
class _Place:
    """Where one replica after the other stands."""

    slot: int
    num_held: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class ClusterFeeder:
    """See the module.

    Attributes:
        partition: how the job was cut; set by `feed`.
        counts: of each place.
    """

    def __init__(self, fleet: Fleet, window: int) -> None:
        """Args: window: requests that a replica holds at a time."""
        self._fleet, self._window = fleet, window
        self._places = [_Place(slot) for slot in range(fleet.num_replicas)]
        self.counts = [PlaceCounts() for _ in self._places]
        self.partition: Partition | None = None
        self._queue: WorkQueue | None = None  # of the phase that runs
        self._began = 0.0  # set by feed
        self._is_renewing = False

    def record(self) -> dict[str, Any]:
        """What there is to report of how the work was shared."""
        ends = [counts.last_s for counts in self.counts]
        mean_end = sum(ends) / len(ends)
        return {
            "places": [asdict(counts) for counts in self.counts],
            "imbalance": max(ends) / mean_end - 1.0 if mean_end else 0.0,
            "steals": self._queue.num_steals if self._queue else 0,
            "stolen": self._queue.num_stolen if self._queue else 0,
            "lost_tokens": self.partition.lost_tokens if self.partition else 0,
            "lost_ratio": self.partition.lost_ratio if self.partition else 0.0,
        }

    @property
    def num_retries(self) -> int:
        """Requests that were sent again because a replica was lost."""
        return sum(counts.num_retries for counts in self.counts)

    async def feed(
        self,
        plan: JobPlan,
        run_one: RunOne,
        is_stopping: Callable[[], bool],
        on_phase: Callable[[Phase], None],
    ) -> None:
        """See `plan.feed.Feeder`."""
        self._began = time.monotonic()
        if len(plan.sample):
            on_phase(Phase.SAMPLE)
            await self._run_queue(_evenly(plan, self._fleet.num_replicas), run_one, is_stopping)
        on_phase(Phase.PLAN)
        queue = await asyncio.to_thread(self._plan, plan)
        on_phase(Phase.RUN)

        async def run_renewed(row: int, run_row: RunRow) -> None:
            await self._renew(plan)
            await run_one(row, run_row)

        telling = asyncio.create_task(self._tell_progress())
        try:
            await self._run_queue(queue, run_renewed, is_stopping)
        finally:
            telling.cancel()

    def wake(self) -> None:
        """See `plan.feed.Feeder`."""
        for place in self._places:
            place.changed.set()

    def _plan(self, plan: JobPlan) -> WorkQueue:
        """Make the plan, cut it, and queue what has not run in the sample."""
        plan.make()
        rates = self._rates(plan)
        self.partition = cut(plan.workload, plan.config, rates)
        if self.partition.num_parts > 1:
            logger.info(
                "Cut into %d parts; they compute %.2f%% more prompt tokens than one engine would.",
                self.partition.num_parts, 100 * self.partition.lost_ratio,
            )  # fmt: skip
        sequence = plan.schedule.sequence
        return WorkQueue(
            sequence[~np.isin(sequence, plan.sample)],
            self.partition.of_row,
            unit=plan.schedule.unit,
            work_s=plan.work_s,
            num_replicas=self._fleet.num_replicas,
            rates=rates,
        )

    def _rates(self, plan: JobPlan) -> list[float]:
        """Speed of each place on this job; one that has no replica yet counts like the first that has."""
        ready = self._fleet.ready()
        seconds = {kind: _seconds(plan, kind) for kind in {_key(replica) for replica in ready}}
        by_slot = [self._fleet.at(slot) for slot in range(self._fleet.num_replicas)]
        first = seconds[_key(ready[0])] if ready else 1.0
        return [first / (seconds[_key(replica)] if replica is not None else first) for replica in by_slot]

    async def _renew(self, plan: JobPlan) -> None:
        if plan.wants_renewal and not self._is_renewing:
            self._is_renewing = True
            try:
                await asyncio.to_thread(plan.renew)
            finally:
                self._is_renewing = False

    async def _tell_progress(self) -> None:
        """How the replicas do, now and then."""
        before = [counts.num_done for counts in self.counts]
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            words = []
            for slot, counts in enumerate(self.counts[:_MOST_TOLD]):
                replica = self._fleet.at(slot)
                load = replica.load if replica is not None else None
                state = "not there" if replica is None else f"{load.num_running} running" if load else "busy"
                pace = (counts.num_done - before[slot]) / PROGRESS_INTERVAL_S
                words.append(f"{slot}: {counts.num_done} done, {pace:.1f} req/s, {state}")
            more = f"; and {len(self.counts) - _MOST_TOLD} more" if len(self.counts) > _MOST_TOLD else ""
            logger.info("Replicas: %s%s.", "; ".join(words), more)
            before = [counts.num_done for counts in self.counts]

    async def _run_queue(self, queue: WorkQueue, run_one: RunOne, is_stopping: Callable[[], bool]) -> None:
        """Until the queue is empty and nothing is at work."""
        self._queue = queue
        try:
            async with asyncio.TaskGroup() as group:
                for place in self._places:
                    group.create_task(self._serve(place, queue, run_one, is_stopping))
        except BaseExceptionGroup as failures:  # the first failure cancelled the others
            first: BaseException = failures
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from failures

    def _is_over(self, queue: WorkQueue) -> bool:
        return not queue.num_waiting and not any(place.num_held for place in self._places)

    async def _serve(
        self, place: _Place, queue: WorkQueue, run_one: RunOne, is_stopping: Callable[[], bool]
    ) -> None:
        """Feed one replica after the other."""
        while not (self._is_over(queue) or is_stopping()):
            waiting = asyncio.create_task(self._fleet.replica(place.slot))
            try:
                while not waiting.done() and not (self._is_over(queue) or is_stopping()):
                    place.changed.clear()
                    change = asyncio.create_task(place.changed.wait())
                    await asyncio.wait([waiting, change], return_when=asyncio.FIRST_COMPLETED)
                    change.cancel()
                if not waiting.done():
                    return
                replica = waiting.result()
            finally:
                waiting.cancel()
            if replica is None:
                return
            await self._feed_replica(place, replica, queue, run_one, is_stopping)

    async def _feed_replica(
        self,
        place: _Place,
        replica: Replica,
        queue: WorkQueue,
        run_one: RunOne,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Until it is lost, or all is done; returns when nothing of it is at work."""
        is_lost = False
        counts = self.counts[place.slot]

        async def run(row: int) -> None:
            nonlocal is_lost
            try:
                await run_one(row, replica.answer)
                queue.done(place.slot, row)
                counts.num_done += 1
                counts.last_s = time.monotonic() - self._began
            except ReplicaLost:
                is_lost = True
                counts.num_retries += 1
                queue.give_back(place.slot, [row])
                self.wake()  # somebody idle may take it
            finally:
                place.num_held -= 1
                place.changed.set()
                if self._is_over(queue):
                    self.wake()

        async with asyncio.TaskGroup() as group:
            while not (is_lost or self._is_over(queue) or is_stopping()):
                place.changed.clear()
                if place.num_held - replica.num_unwritten < self._limit(replica, queue):
                    row = queue.take(place.slot)
                    if row is not None:
                        place.num_held += 1
                        if counts.first_s is None:
                            counts.first_s = time.monotonic() - self._began
                        group.create_task(run(row))
                        continue
                await self._change_or_a_second(place)

    def _limit(self, replica: Replica, queue: WorkQueue) -> int:
        return window_of(
            self._window,
            replica.load,
            num_waiting=queue.num_waiting,
            num_replicas=self._fleet.num_replicas,
        )

    @staticmethod
    async def _change_or_a_second(place: _Place) -> None:
        """A replica's load is told once a second, without a change here."""
        try:
            async with asyncio.timeout(1.0):
                await place.changed.wait()
        except TimeoutError:
            pass


def _evenly(plan: JobPlan, num_replicas: int) -> WorkQueue:
    """The sample, dealt out in turn."""
    part = np.zeros(plan.num_requests, np.int64)
    part[plan.sample] = np.arange(len(plan.sample)) % num_replicas
    rows = np.arange(plan.num_requests)
    work_s: FloatArray = np.ones(plan.num_requests)
    return WorkQueue(plan.sample, part, unit=rows, work_s=work_s, num_replicas=num_replicas)


def _key(replica: Replica) -> tuple[Any, ...]:
    """What of a replica decides its speed."""
    facts = replica.facts
    return facts.device_name, facts.tp_size, facts.kv_pool_tokens


def _seconds(plan: JobPlan, key: tuple[Any, ...]) -> float:
    """What the whole job would take on such a replica alone, by the roofline."""
    assert plan.engine_facts is not None, "it was planned for an engine"
    device_name, tp_size, kv_pool_tokens = key
    cost = cost_of(
        plan.engine_facts._replace(device_name=device_name, tp_size=tp_size, kv_pool_tokens=kv_pool_tokens)
    )
    if cost is None:
        return 1.0
    tree = plan.tree
    output_len = plan.schedule.est_output_len[tree.sequence]
    return float(
        cost.compute_s(tree.prompt_len, output_len).sum() + cost.memory_s(tree.prompt_len, output_len).sum()
    )
