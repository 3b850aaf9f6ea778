"""A plan for requests that come without hints."""

from __future__ import annotations

import itertools
from array import array

import numpy as np
import pytest

from core.toy_cost import ToyCost
from sglang_blend.core.request import Side
from sglang_blend.scheduling.online_plan import JOIN_LEN, Newcomer, OnlinePlan


def newcomer(rid: str, tokens: list[int], output_len: float = 10.0, namespace: str = "") -> Newcomer:
    return Newcomer(rid, array("q", tokens), 100, output_len, output_len, namespace)


def group(name: int, i: int) -> list[int]:
    """A prompt of a group: its prefix of JOIN_LEN tokens, then its own."""
    return [*range(1000 * name, 1000 * name + JOIN_LEN), 50_000 + i, 50_001 + i]


def arrive_all(plan: OnlinePlan, newcomers: list[Newcomer]) -> dict[str, tuple[int, float]]:
    for each in newcomers:
        plan.arrive(each)
    return {rid: (place.pool, place.rank) for rid, place in plan.next_pool().items()}


def test_sharers_that_came_apart_stand_together() -> None:
    plan = OnlinePlan("dual-scan", None)
    order = np.random.default_rng(0).permutation(40).tolist()
    ranks = arrive_all(plan, [newcomer(f"g{i % 4}-{i}", group(i % 4, i)) for i in order])
    in_order = sorted(ranks, key=ranks.__getitem__)
    groups = [rid.split("-")[0] for rid in in_order]
    assert sum(a != b for a, b in itertools.pairwise(groups)) == 3


def test_a_latecomer_with_a_waiting_sharer_goes_right_behind_it() -> None:
    plan = OnlinePlan("dual-scan", None)
    ranks = arrive_all(plan, [newcomer(f"g{i % 4}-{i}", group(i % 4, i)) for i in range(40)])
    place = plan.arrive(newcomer("late", group(2, 99)))
    assert place.pool == 1
    beside = [rid for rid, (_, rank) in ranks.items() if rank == place.rank]
    assert [rid.split("-")[0] for rid in beside] == ["g2"]


def test_others_wait_for_the_next_pool_and_nobody_waits_for_ever() -> None:
    plan = OnlinePlan("dual-scan", None)
    arrive_all(plan, [newcomer(f"g{i}", group(i % 2, i)) for i in range(10)])
    assert plan.arrive(newcomer("stranger", group(7, 0))).pool == 2
    joined = [plan.arrive(newcomer(f"late{i}", group(0, 100 + i))).pool for i in range(60)]
    assert joined.count(1) == 40, "a pool lets in no more than four times what it has planned"


def test_namespaces_do_not_share() -> None:
    plan = OnlinePlan("dual-scan", None)
    arrive_all(plan, [newcomer(f"g{i}", group(0, i)) for i in range(10)])
    assert plan.arrive(newcomer("lora", group(0, 50), namespace="adapter")).pool == 2


@pytest.mark.parametrize("tokens", [[], [-1, 5], [2**31], [2**40, 7]])
def test_a_prompt_that_the_planner_would_refuse_is_planned_with_the_others(tokens: list[int]) -> None:
    """SGLang lets prompts without tokens through, and any token id: no request may end the scheduler."""
    plan = OnlinePlan("dual-scan", None)
    ranks = arrive_all(plan, [newcomer("odd", tokens), *(newcomer(f"g{i}", group(i, i)) for i in range(9))])
    assert sorted(rank for _, rank in ranks.values()) == list(range(10))


def test_with_a_cost_model_both_sides_are_used() -> None:
    plan = OnlinePlan("dual-scan", ToyCost(kv_pool_tokens=1_000))
    dense = [newcomer(f"dense{i}", group(i, i) * 4, output_len=1.0) for i in range(30)]
    sparse = [newcomer(f"sparse{i}", [60_000 + i], output_len=90.0) for i in range(30)]
    for each in dense + sparse:
        plan.arrive(each)
    sides = {rid: place.side for rid, place in plan.next_pool().items()}
    dense_left = [sides[f"dense{i}"] for i in range(30)].count(Side.LEFT)
    sparse_left = [sides[f"sparse{i}"] for i in range(30)].count(Side.LEFT)
    assert dense_left > 15 > sparse_left


def test_the_same_arrivals_give_the_same_places() -> None:
    first, second = (
        arrive_all(
            OnlinePlan("stationary", ToyCost()), [newcomer(f"r{i}", group(i % 5, i)) for i in range(50)]
        )
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("num", [1, 7])
def test_a_handful_is_not_planned(num: int) -> None:
    plan = OnlinePlan("dual-scan", None)
    places = [plan.arrive(newcomer(f"r{i}", group(i, i))) for i in range(num)]
    assert plan.next_pool() == {}
    assert [place.rank for place in places] == sorted(place.rank for place in places)


def test_a_plan_knows_how_many_wait_and_can_forget_them() -> None:
    """Of the pool that runs and of the next one; a forgotten request is planned no more."""
    plan = OnlinePlan("dual-scan", None)
    arrive_all(plan, [newcomer(f"r{i}", group(i, i)) for i in range(10)])
    plan.arrive(newcomer("joins", group(3, 99)))
    plan.arrive(newcomer("later", group(77, 0)))
    plan.leave("r3")
    assert len(plan) == 11
    plan.clear()
    assert len(plan) == 0
    assert len(arrive_all(plan, [newcomer(f"s{i}", group(100 + i, i)) for i in range(8)])) == 8
