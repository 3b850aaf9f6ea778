"""Whatever happens to replicas, every request of a job is answered exactly once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from cluster.fake_replicas import FACTS, FakeReplica
from sglang_blend.cluster.feeder import ClusterFeeder
from sglang_blend.cluster.fleet import Fleet
from sglang_blend.core import RequestTable
from sglang_blend.errors import EngineError
from sglang_blend.plan.feed import Phase, RunRow
from sglang_blend.plan.job_plan import JobPlan
from sglang_blend.request import BatchLine

LINE = BatchLine(1, 0, "nobody looks at it here", "", {})


def plan_of(num_requests: int, num_replicas: int) -> JobPlan:
    rng = random.Random(0)
    prompts = [[number % 7, *(rng.randrange(50) for _ in range(5))] for number in range(num_requests)]
    table = RequestTable.from_lists(prompts, max_new_tokens=8, fixed_output=True)
    return JobPlan(table, FACTS._replace(num_replicas=num_replicas), order="dfs")


class Run:
    """One job on fake replicas; `meanwhile` may kill them."""

    def __init__(self, num_requests: int, num_replicas: int, window: int = 16, **kind: float) -> None:
        self.plan = plan_of(num_requests, num_replicas)
        self.num_replicas, self.window = num_replicas, window
        self.log: list[tuple[int, int]] = []
        self.phases: list[Phase] = []
        self.started: list[FakeReplica] = []
        self.stopping = False
        self._kind = kind
        self.feeder: ClusterFeeder

    async def start(self, slot: int) -> FakeReplica:
        await asyncio.sleep(0.001)
        replica = FakeReplica(slot, self.log, **self._kind)  # type: ignore[arg-type]
        self.started.append(replica)
        return replica

    async def main(self, meanwhile: Callable[[], None] = lambda: None) -> Counter[int]:
        done: Counter[int] = Counter()

        async def run_one(row: int, run_row: RunRow) -> None:
            answer = await run_row(row, LINE, None)
            assert answer is not None
            done[row] += 1

        async def disturb() -> None:
            while True:
                await asyncio.sleep(0.002)
                meanwhile()

        async with Fleet(self.num_replicas, self.start, max_restarts=3, first_backoff_s=0.001) as fleet:
            self.feeder = ClusterFeeder(fleet, self.window)
            disturbing = asyncio.create_task(disturb())
            try:
                await self.feeder.feed(self.plan, run_one, lambda: self.stopping, self.phases.append)
            finally:
                disturbing.cancel()
        return done


@pytest.mark.parametrize(("num_requests", "num_replicas"), [(1, 1), (1, 4), (100, 1), (300, 3), (5, 8)])
def test_every_request_is_answered_once(num_requests: int, num_replicas: int) -> None:
    run = Run(num_requests, num_replicas)
    assert asyncio.run(run.main()) == Counter(range(num_requests))
    assert run.phases == [Phase.PLAN, Phase.RUN]


def test_work_is_shared() -> None:
    run = Run(400, 4, answer_s=0.001)
    asyncio.run(run.main())
    by_slot = Counter(slot for slot, _ in run.log)
    assert min(by_slot.values()) > 50, by_slot


def test_a_replica_holds_no_more_than_its_window() -> None:
    run = Run(300, 2, window=7)
    asyncio.run(run.main())
    assert max(replica.most_held for replica in run.started) <= 7


@pytest.mark.parametrize("seed", range(5))
def test_replicas_that_die_at_random_lose_and_double_nothing(seed: int) -> None:
    rng = random.Random(seed)
    run = Run(600, 3, answer_s=0.003)
    num_killed = 0

    def kill_one() -> None:
        nonlocal num_killed
        alive = [replica for replica in run.started if replica.num_answers and not replica.is_stopped]
        if alive and num_killed < 15:
            num_killed += 1
            rng.choice(alive).lose()

    assert asyncio.run(run.main(kill_one)) == Counter(range(600))
    assert num_killed == 15
    assert run.feeder.num_retries > 0


def test_a_place_without_a_replica_leaves_its_part_to_the_others() -> None:
    run = Run(200, 2)
    start = run.start

    async def start_first_only(slot: int) -> FakeReplica:
        if slot == 1:
            raise EngineError("no room")
        return await start(slot)

    run.start = start_first_only  # type: ignore[method-assign]
    assert asyncio.run(run.main()) == Counter(range(200))
    assert {slot for slot, _ in run.log} == {0}
    assert run.feeder.record()["stolen"] > 0


def test_when_no_place_has_a_replica_any_more_the_job_ends_with_an_error() -> None:
    run = Run(200, 2, answer_s=10.0)

    def kill_all() -> None:
        for replica in run.started:
            replica.lose("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        asyncio.run(run.main(kill_all))


def test_stopping_starts_no_more_and_waits_for_what_is_at_work() -> None:
    run = Run(500, 2, answer_s=0.002)

    def stop_after_fifty() -> None:
        if len(run.log) > 50 and not run.stopping:
            run.stopping = True
            run.feeder.wake()

    done = asyncio.run(run.main(stop_after_fifty))
    assert 50 < len(done) < 200
    assert all(count == 1 for count in done.values())
    assert not any(replica.held for replica in run.started)


def test_an_error_of_the_job_ends_it() -> None:
    run = Run(50, 2)

    async def main() -> None:
        async def run_one(row: int, run_row: RunRow) -> None:
            raise OSError("the disk is full")

        async with Fleet(2, run.start, max_restarts=3) as fleet:
            await ClusterFeeder(fleet, 4).feed(run.plan, run_one, lambda: False, run.phases.append)

    with pytest.raises(OSError, match="the disk is full"):
        asyncio.run(main())


def test_the_sample_runs_first_on_all_replicas() -> None:
    prompts = [[number % 5, number] for number in range(1500)]
    table = RequestTable.from_lists(prompts, max_new_tokens=8)
    run = Run(1, 2)
    run.plan = JobPlan(table, FACTS._replace(num_replicas=2), order="auto")
    assert asyncio.run(run.main()) == Counter(range(1500))
    assert run.phases == [Phase.SAMPLE, Phase.PLAN, Phase.RUN]
    sampled = set(run.plan.sample.tolist())
    first = run.log[: len(sampled)]
    assert {row for _, row in first} == sampled
    assert {slot for slot, _ in first} == {0, 1}
