"""The queue that replicas take from: nothing lost, planned order, whole units stolen, nobody idle."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sglang_blend.cluster.work_queue import WorkQueue


def make_queue(
    parts: list[list[tuple[int, float]]], rates: list[float] | None = None
) -> tuple[WorkQueue, list[list[int]]]:
    """A queue whose replicas have these requests, `(unit, work)` each, in planned order; and their rows.

    Rows are numbered from the last replica to the first, so that they tell nothing about the order.
    """
    rows: list[list[int]] = []
    taken = sum(len(part) for part in parts)
    for part in parts:
        rows.append(list(range(taken - len(part), taken)))
        taken -= len(part)
    total = sum(len(part) for part in parts)
    of_row, unit, work = np.zeros(total, np.int64), np.zeros(total, np.int64), np.zeros(total)
    for replica, (part, own) in enumerate(zip(parts, rows, strict=True)):
        for row, (of_unit, seconds) in zip(own, part, strict=True):
            of_row[row], unit[row], work[row] = replica, of_unit, seconds
    sequence = np.array([row for own in rows for row in own], np.int64)
    queue = WorkQueue(sequence, of_row, unit=unit, work_s=work, num_replicas=len(parts), rates=rates)
    return queue, rows


def drain(queue: WorkQueue, replica: int) -> list[int]:
    """All that one replica gets when it is the only one to ask."""
    rows = []
    while (row := queue.take(replica)) is not None:
        rows.append(row)
        queue.done(replica, row)
    return rows


class AnyInterleaving(RuleBasedStateMachine):
    """Replicas take, finish, die and give back in any order; a plain list of what waits is kept beside."""

    @initialize(
        parts=st.lists(st.integers(0, 4), max_size=40),
        num_replicas=st.integers(1, 5),
        units=st.lists(st.integers(0, 6), min_size=40, max_size=40),
        work=st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=40, max_size=40),
        order=st.randoms(use_true_random=False),
        rates=st.none() | st.lists(st.floats(0.1, 10.0), min_size=5, max_size=5),
    )
    def start(self, parts: Any, num_replicas: Any, units: Any, work: Any, order: Any, rates: Any) -> None:
        n = len(parts)
        self.num_replicas = num_replicas
        self.rates = [1.0] * 5 if rates is None else rates
        sequence = list(range(n))
        order.shuffle(sequence)
        self.work = np.array(work[:n])
        self.rank = {row: rank for rank, row in enumerate(sequence)}
        self.queue = WorkQueue(
            np.array(sequence, np.int64),
            np.array(parts, np.int64) % num_replicas,
            unit=np.array(units[:n], np.int64),
            work_s=self.work,
            num_replicas=num_replicas,
            rates=None if rates is None else rates[:num_replicas],
        )
        self.waiting = set(range(n))
        self.held: list[list[int]] = [[] for _ in range(num_replicas)]
        self.finished: set[int] = set()

    @rule(replica=st.integers(0, 4), num=st.integers(1, 6))
    def take(self, replica: Any, num: Any) -> None:
        """Somebody idle who asks gets a request as long as any waits, and no request is with two."""
        replica %= self.num_replicas
        for _ in range(num):
            row = self.queue.take(replica)
            if row is None:  # one that has nothing to do gets what there is
                assert not self.waiting or self.held[replica]
            else:
                self.waiting.remove(row)
                self.held[replica].append(row)

    @rule(replica=st.integers(0, 4))
    def take_own(self, replica: Any) -> None:
        """Without stealing one may get nothing while others have."""
        replica %= self.num_replicas
        row = self.queue.take_own(replica)
        if row is not None:
            self.waiting.remove(row)
            self.held[replica].append(row)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        """A request that is done never comes back."""
        replica = data.draw(st.sampled_from([r for r, rows in enumerate(self.held) if rows]))
        row = data.draw(st.sampled_from(self.held[replica]))
        self.held[replica].remove(row)
        self.queue.done(replica, row)
        assert row not in self.finished
        self.finished.add(row)

    @rule(replica=st.integers(0, 4), other=st.integers(0, 4))
    def die(self, replica: Any, other: Any) -> None:
        """What a replica held is queued again, for itself or for one that takes its place."""
        replica, other = replica % self.num_replicas, other % self.num_replicas
        self.queue.give_back(other, self.held[replica], holder=replica)
        self.waiting.update(self.held[replica])
        self.held[replica] = []

    @invariant()
    def what_waits_is_counted(self) -> None:
        """The counts and sums are those of the list."""
        if hasattr(self, "queue"):
            assert self.queue.num_waiting == len(self.waiting)
            left = sum(self.queue.left_s(r) * self.rates[r] for r in range(self.num_replicas))
            assert left == pytest.approx(sum(self.work[sorted(self.waiting)]), abs=1e-6)

    def teardown(self) -> None:
        """Whoever is left does all the rest."""
        if hasattr(self, "queue"):
            for row in self.held[0]:
                self.queue.done(0, row)
            assert sorted(drain(self.queue, 0)) == sorted(self.waiting)
            held = {row for rows in self.held for row in rows}
            assert self.waiting | held | self.finished == set(self.rank)


TestAnyInterleaving = pytest.mark.slow(AnyInterleaving.TestCase)
TestAnyInterleaving.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    asks=st.lists(st.integers(0, 4), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_own_requests_come_in_planned_order(sizes: list[int], asks: list[int]) -> None:
    """Whoever asks in between: until a replica steals, it gets its own part from the front."""
    queue, rows = make_queue([[(n, 1.0) for n in range(size)] for size in sizes])
    given_to: list[list[int]] = [[] for _ in sizes]
    for ask in asks:
        replica = ask % len(sizes)
        row = queue.take_own(replica)
        if row is not None:
            given_to[replica].append(row)
    for own, got in zip(rows, given_to, strict=True):
        assert got == own[: len(got)]


def test_a_thief_takes_whole_units_from_the_far_end() -> None:
    """Four units of three requests: half of them change hands, the last two, still in planned order."""
    queue, (own, _) = make_queue([[(n // 3, 1.0) for n in range(12)], []])
    assert drain_n(queue, 1, 6) == own[6:]
    assert (queue.num_steals, queue.num_stolen) == (1, 6)
    assert drain_n(queue, 0, 6) == own[:6]
    assert queue.take(0) is None
    assert queue.take(1) is None


def drain_n(queue: WorkQueue, replica: int, num: int) -> list[int | None]:
    """The next so many."""
    return [queue.take(replica) for _ in range(num)]


@given(
    units=st.lists(st.integers(1, 5), min_size=2, max_size=8),
    work=st.floats(0.1, 10.0),
    rates=st.tuples(st.floats(0.2, 5.0), st.floats(0.2, 5.0)),
)
@settings(max_examples=150, deadline=None)
def test_no_unit_is_torn_while_there_is_another(
    units: list[int], work: float, rates: tuple[float, float]
) -> None:
    """Owner and thief have no unit in common after a theft, and both have some."""
    queue, (own, _) = make_queue(
        [[(unit, work) for unit, size in enumerate(units) for _ in range(size)], []], list(rates)
    )
    unit_of = dict(zip(own, [unit for unit, size in enumerate(units) for _ in range(size)], strict=True))
    first = queue.take(1)
    assert first is not None
    stolen = [first]
    while (row := queue.take_own(1)) is not None:
        stolen.append(row)
    kept = []
    while (row := queue.take_own(0)) is not None:
        kept.append(row)
    assert kept + stolen == own
    assert stolen
    assert kept
    assert not {unit_of[row] for row in stolen} & {unit_of[row] for row in kept}


def test_a_unit_that_is_all_there_is_left_is_divided() -> None:
    """The last minutes do not wait for one replica because a subtree is large."""
    queue, (own, _) = make_queue([[(5, 1.0)] * 10, []])
    assert queue.take(1) == own[5]
    assert (queue.num_steals, queue.num_stolen) == (1, 5)


def test_a_replica_takes_only_from_one_that_has_twice_as_much_to_do() -> None:
    """At the end all batches are full; one would only run slower with what another is about to start."""
    queue, (own, other) = make_queue([[(n, 1.0) for n in range(8)], [(9 + n, 1.0) for n in range(8)]])
    assert drain_n(queue, 0, 6) == own[:6]
    assert drain_n(queue, 1, 8) == other
    assert queue.take(1) is None
    for row in other[:4]:
        queue.done(1, row)
    assert queue.take(1) == own[7]


def test_the_part_of_a_lost_replica_is_taken_at_once() -> None:
    """Nobody else will start it soon."""
    queue, (own, other) = make_queue([[(n, 1.0) for n in range(4)], [(9 + n, 1.0) for n in range(8)]])
    assert drain_n(queue, 1, 8) == other
    assert queue.take(1) in own


def test_the_part_with_most_time_left_is_stolen_from() -> None:
    """Not the one with most requests."""
    parts = [[(n, 1.0) for n in range(6)], [(10 + n, 9.0) for n in range(4)], []]
    queue, rows = make_queue(parts)
    assert queue.take(2) in rows[1]


def test_rates_say_what_a_fair_share_is() -> None:
    """A thief of three times the speed takes three quarters; and the slow one is the busiest."""
    queue, (own, _) = make_queue([[(n, 1.0) for n in range(40)], []], [1.0, 3.0])
    assert queue.take(1) == own[10]
    assert queue.num_stolen == 30
    queue, rows = make_queue([[(n, 1.0) for n in range(9)], [(9 + n, 1.0) for n in range(9)], []], [3, 1, 1])
    assert queue.left_s(0) == 3.0
    assert queue.left_s(1) == 9.0
    assert queue.take(2) in rows[1]


def test_requests_that_cost_nothing_are_handed_out_all_the_same() -> None:
    """Estimated lengths may be 0; what waits is still somebody's result."""
    queue, rows = make_queue([[], [(n, 0.0) for n in range(5)], [(9, 0.0)]])
    assert sorted(drain(queue, 0)) == sorted(rows[1] + rows[2])


def test_what_a_dead_replica_held_comes_first_and_in_planned_order() -> None:
    """Its unfinished requests are the oldest of its part."""
    queue, (own, _) = make_queue([[(n, 1.0) for n in range(6)], []])
    held = [queue.take(0) for _ in range(4)]
    queue.give_back(0, [row for row in (held[3], held[1]) if row is not None])
    assert queue.num_waiting == 4
    assert drain_n(queue, 0, 4) == [own[1], own[3], own[4], own[5]]


def test_only_what_still_has_to_run_is_queued() -> None:
    """A job that goes on leaves finished requests out of the sequence."""
    n = 6
    queue = WorkQueue(
        np.array([4, 0, 2]),
        np.array([0, 0, 1, 1, 1, 0]),
        unit=np.arange(n),
        work_s=np.ones(n),
        num_replicas=2,
    )
    assert queue.num_waiting == 3
    assert [queue.take_own(1), queue.take_own(1), queue.take_own(1)] == [4, 2, None]
    assert [queue.take_own(0), queue.take_own(0)] == [0, None]


def test_an_empty_queue_has_nothing_for_anybody() -> None:
    """A finished job."""
    queue, _ = make_queue([[], []])
    assert queue.num_waiting == 0
    assert queue.take(0) is None
    assert queue.num_steals == 0
