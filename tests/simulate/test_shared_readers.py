"""The simulated engine with attention that reads shared prefixes once a step."""

from dataclasses import replace

import numpy as np
import pytest

from attention.batches import FREE
from sglang_blend.core.request import RequestTable
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate

ALONE = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("H200"))
SHARED = replace(ALONE, shared_reads=FREE)
ENGINE = EngineConfig(admission="peak", step_overhead_s=0.0)


def job(num_requests: int, shared_len: int, private_len: int, output_len: int) -> SimulatedJob:
    prompts = [[1] * shared_len + [100 + i] * private_len for i in range(num_requests)]
    table = RequestTable.from_lists(prompts, max_new_tokens=[output_len] * num_requests)
    return SimulatedJob.from_table(table, np.full(num_requests, output_len))


def test_a_batch_saves_the_reads_of_all_but_one() -> None:
    """64 requests decode 100 steps side by side; 63 x 1000 tokens less are read in each step."""
    one_group = job(64, 1000, 50, 101)
    alone, shared = (simulate(one_group, np.arange(64), cost, ENGINE).makespan_s for cost in (ALONE, SHARED))
    assert alone - shared == pytest.approx(100 * 63 * 1000 * sum(ALONE.kv_read_s))


def test_nothing_is_saved_where_nothing_is_shared() -> None:
    apart = job(16, 0, 300, 50)
    alone, shared = (simulate(apart, np.arange(16), cost, ENGINE).makespan_s for cost in (ALONE, SHARED))
    assert alone == shared


def test_the_bound_is_below_the_makespan() -> None:
    one_group = job(64, 1000, 50, 101)
    result = simulate(one_group, np.arange(64), SHARED, ENGINE)
    assert result.bounds.optimum_s < result.bounds.sequential_s <= result.makespan_s
