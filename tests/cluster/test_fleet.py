"""A fleet keeps its replicas at their number, and says why when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.fake_replicas import FakeReplica
from sglang_blend.cluster.fleet import Fleet
from sglang_blend.errors import ConfigError, EngineError


class Starter:
    """Starts replicas; `fails(slot, num_starts)` says with what, if with anything."""

    def __init__(self, fails: Callable[[int, int], Exception | None] = lambda slot, number: None) -> None:
        self.started: list[FakeReplica] = []
        self.num_starts: dict[int, int] = {}
        self._fails = fails

    async def __call__(self, slot: int) -> FakeReplica:
        self.num_starts[slot] = self.num_starts.get(slot, 0) + 1
        await asyncio.sleep(0)
        if error := self._fails(slot, self.num_starts[slot]):
            raise error
        replica = FakeReplica(slot, [])
        self.started.append(replica)
        return replica


def fleet_of(starter: Starter, num_replicas: int = 2, max_restarts: int = 2) -> Fleet:
    return Fleet(num_replicas, starter, max_restarts=max_restarts, first_backoff_s=0.001)


def test_a_lost_replica_is_replaced_and_all_are_stopped_at_the_end() -> None:
    async def main() -> Starter:
        starter = Starter()
        async with fleet_of(starter) as fleet:
            first = await fleet.replica(0)
            assert isinstance(first, FakeReplica)
            first.lose()
            while fleet.at(0) is first:
                await asyncio.sleep(0)
            assert await fleet.replica(0) is not first
            assert fleet.num_restarts == 1
        return starter

    starter = asyncio.run(main())
    assert starter.num_starts == {0: 2, 1: 1}
    assert all(replica.is_stopped for replica in starter.started)


def test_one_that_is_ready_is_enough_to_begin() -> None:
    async def main() -> None:
        starter = Starter(lambda slot, number: EngineError("no room") if slot == 1 else None)
        async with fleet_of(starter) as fleet:
            assert await fleet.replica(0) is not None
            assert await fleet.replica(1) is None  # given up after its tries
        assert starter.num_starts[1] == 3

    asyncio.run(main())


def test_none_that_starts_is_an_error_with_the_reason_at_the_first_try() -> None:
    async def main() -> Starter:
        starter = Starter(lambda slot, number: EngineError("1 GPU is needed, 0 are free"))
        with pytest.raises(EngineError, match="1 GPU is needed"):
            async with fleet_of(starter, max_restarts=10):
                pass
        return starter

    starter = asyncio.run(main())
    assert all(number <= 2 for number in starter.num_starts.values())


def test_a_refused_flag_ends_the_fleet_at_once() -> None:
    async def main() -> None:
        starter = Starter(lambda slot, number: ConfigError("--tp-size 3") if slot == 1 else None)
        async with fleet_of(starter) as fleet:
            await fleet.replica(1)

    with pytest.raises(ConfigError, match="--tp-size 3"):
        asyncio.run(main())


def test_replicas_that_die_and_answer_nothing_are_given_up() -> None:
    async def main() -> None:
        starter = Starter()
        async with fleet_of(starter, num_replicas=1) as fleet:
            while True:
                replica = await fleet.replica(0)
                assert isinstance(replica, FakeReplica)
                replica.lose("out of memory")
                while fleet.at(0) is replica:
                    await asyncio.sleep(0)

    with pytest.raises(EngineError, match=r"died 3 times.*out of memory"):
        asyncio.run(main())


def test_one_that_answered_before_it_died_is_always_replaced() -> None:
    async def main() -> int:
        starter = Starter()
        async with fleet_of(starter, num_replicas=1) as fleet:
            for _ in range(10):
                replica = await fleet.replica(0)
                assert isinstance(replica, FakeReplica)
                replica.num_answers = 1
                replica.lose()
                while fleet.at(0) is replica:
                    await asyncio.sleep(0)
            await fleet.replica(0)
        return fleet.num_restarts

    assert asyncio.run(main()) == 10
