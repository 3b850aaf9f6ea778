"""Where attention reads a shared prefix once a step, a request pays its part of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.toy_cost import ToyCost
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.request import RequestTable

ALONE, SHARED = ToyCost(), ToyCost(shares_reads=True)


def table(num_requests: int, shared_len: int, private_len: int) -> RequestTable:
    """One group of requests, 10 tokens of output each."""
    prompts = [[1] * shared_len + [100 + i] * private_len for i in range(num_requests)]
    return RequestTable.from_lists(
        prompts, max_new_tokens=[10] * num_requests, fixed_output=[True] * num_requests
    )


def read_len(requests: RequestTable, cost: ToyCost) -> list[float]:
    return make_workload(requests, cost, PlanConfig()).leaf_read_len.tolist()


def test_a_prefix_is_divided_by_its_readers() -> None:
    assert read_len(table(4, 100, 20), SHARED) == [20 + 100 / 4] * 4
    assert read_len(table(4, 100, 20), ALONE) == [120] * 4


def test_no_more_readers_than_the_pool_holds() -> None:
    """Each needs 20 tokens and 5 of output; beside the 100 shared ones, 50 more hold two."""
    small = replace(SHARED, kv_pool_tokens=150)
    assert read_len(table(8, 100, 20), small) == [pytest.approx(20 + 100 / 2)] * 8


def test_levels_add_up() -> None:
    """Two share 60 tokens, of which 40 with two others."""
    prompts = [[1] * 40 + [2] * 20 + [10], [1] * 40 + [2] * 20 + [11], [1] * 40 + [12], [1] * 40 + [13]]
    requests = RequestTable.from_lists(prompts, max_new_tokens=[2] * 4, fixed_output=[True] * 4)
    paid = read_len(requests, SHARED)
    assert sorted(paid) == [11, 11, 21, 21]


def test_shared_reads_make_a_job_more_compute_intensive() -> None:
    requests = table(50, 1000, 50)
    densities: list[Any] = [
        make_schedule(requests, cost, PlanConfig(order="dfs")).root_density for cost in (ALONE, SHARED)
    ]
    works = [make_workload(requests, cost, PlanConfig()) for cost in (ALONE, SHARED)]
    memory: list[Any] = [work.total.memory_s for work in works]
    assert memory[0] / memory[1] == pytest.approx(1055 / (50 + 1000 / 50 + 5))
    assert densities[1] / densities[0] == pytest.approx(memory[0] / memory[1])


def test_without_sharing_nothing_changes() -> None:
    """An engine that shares reads has the same plan for a job that shares nothing."""
    prompts = [[i] * (20 + i) for i in range(30)]
    requests = RequestTable.from_lists(prompts, max_new_tokens=[10] * 30, fixed_output=[True] * 30)
    plans = [make_schedule(requests, cost, PlanConfig(order="stationary")) for cost in (ALONE, SHARED)]
    assert np.array_equal(plans[0].rank, plans[1].rank)
