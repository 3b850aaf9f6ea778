"""Finding the request that kills the engine: it is found, and no other is punished."""

import random

import pytest

from sglang_blend.engine.suspects import Suspects


def hunt(
    num_requests: int, poison: set[int], *, window: int, seed: int = 0, from_outside: bool = False
) -> tuple[set[int], int]:
    """Run all requests, at most `window` at a time; a poisonous one kills the engine soon after it starts.

    Returns:
        The requests found guilty, and the number of deaths.
    """
    rng = random.Random(seed)
    suspects = Suspects()
    waiting = list(range(num_requests))
    in_flight: list[int] = []
    guilty: set[int] = set()
    num_deaths = 0
    while waiting or in_flight:
        for request in [r for r in waiting if suspects.may_run(r)][: window - len(in_flight)]:
            waiting.remove(request)
            in_flight.append(request)
        assert in_flight, "nobody may run"
        if poison & set(in_flight) and rng.random() < 0.5:
            num_deaths += 1
            found = suspects.died(in_flight, from_outside=from_outside)
            if found is not None:
                assert isinstance(found, int)
                guilty.add(found)
                in_flight.remove(found)
            waiting = in_flight + waiting
            in_flight = []
        else:
            harmless = [r for r in in_flight if r not in poison]
            if harmless:
                done = rng.choice(harmless)
                in_flight.remove(done)
                suspects.finished(done)
    return guilty, num_deaths


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("poison", [set(), {0}, {99}, {3, 4}, {10, 50, 90}])
def test_exactly_the_poisonous_requests_are_found(poison: set[int], seed: int) -> None:
    guilty, num_deaths = hunt(100, poison, window=32, seed=seed)
    assert guilty == poison
    assert num_deaths <= 3 * len(poison)


def test_a_lonely_request_is_guilty_at_its_second_death() -> None:
    suspects = Suspects()
    assert suspects.died(["a"]) is None
    assert suspects.died(["a"]) == "a"


def test_one_death_from_outside_suspects_nobody() -> None:
    suspects = Suspects()
    suspects.died(range(100), from_outside=True)
    assert all(suspects.may_run(r) for r in range(100))


@pytest.mark.parametrize("num_in_flight", [1, 2, 8, 32, 256, 4096])
def test_three_deaths_find_one_among_any_number(num_in_flight: int) -> None:
    """And the others run in as many groups as the root of their number, then one by one."""
    suspects = Suspects()
    poison, num_deaths, num_rounds = num_in_flight - 1, 0, 0
    waiting = list(range(num_in_flight))
    while waiting:
        running = [request for request in waiting if suspects.may_run(request)]
        num_rounds += 1
        if poison not in running:
            for request in running:
                suspects.finished(request)
            waiting = [request for request in waiting if request not in running]
            continue
        num_deaths += 1
        if (guilty := suspects.died(running)) is not None:
            assert guilty == poison
            waiting.remove(guilty)
    assert num_deaths <= 3
    assert num_rounds <= 3 + 2 * num_in_flight**0.5 + 1


def test_suspects_run_a_few_at_a_time_and_then_one_by_one() -> None:
    suspects = Suspects()
    assert suspects.died(range(24)) is None
    few = [r for r in range(24) if suspects.may_run(r)]
    assert few == [0, 1, 2, 3]
    assert suspects.died(few) is None
    assert [r for r in range(24) if suspects.may_run(r)] == [0]
    assert suspects.finished(0)
    assert [r for r in range(24) if suspects.may_run(r)] == [1]


def test_a_lonely_request_that_was_killed_from_outside_comes_last() -> None:
    suspects = Suspects()
    assert suspects.died("abc") is None
    assert suspects.died("a", from_outside=True) is None
    assert [r for r in "abc" if suspects.may_run(r)] == ["b"]
    assert suspects.finished("b")


def test_a_request_for_which_the_kernel_kills_the_engine_is_found() -> None:
    guilty, num_deaths = hunt(100, {42}, window=32, from_outside=True)
    assert guilty == {42}
    assert num_deaths <= 16


def test_suspects_that_had_not_begun_stay_a_group() -> None:
    suspects = Suspects()
    assert suspects.died("abcdefghi") is None
    assert suspects.died("ab") is None
    turns: list[str] = []
    while turn := [r for r in "abcdefghi" if suspects.may_run(r) and r not in "".join(turns)]:
        turns.append("".join(turn))
        for request in turn:
            suspects.finished(request)
    assert turns == ["a", "b", "def", "ghi", "c"]


@pytest.mark.parametrize("seed", range(20))
def test_kills_from_outside_make_nobody_guilty(seed: int) -> None:
    """Thirty kills at random moments, and 300 requests of 1 to 10 steps; each death starts them anew."""
    rng = random.Random(seed)
    suspects = Suspects()
    length = {request: rng.randint(1, 10) for request in range(300)}
    waiting = list(length)
    in_flight: dict[int, int] = {}
    num_kills = 0
    while waiting or in_flight:
        for request in [r for r in waiting if suspects.may_run(r)][: 64 - len(in_flight)]:
            waiting.remove(request)
            in_flight[request] = length[request]
        if num_kills < 30 and rng.random() < 0.05:
            num_kills += 1
            assert suspects.died(in_flight, from_outside=True) is None
            waiting = list(in_flight) + waiting
            in_flight = {}
            continue
        in_flight = {request: steps - 1 for request, steps in in_flight.items()}
        for request in [r for r, steps in in_flight.items() if steps == 0]:
            del in_flight[request]
            suspects.finished(request)


def test_a_death_with_nobody_in_flight_changes_nothing() -> None:
    suspects = Suspects()
    assert suspects.died([]) is None
    assert suspects.may_run("a")
