"""Predicted makespans: the simulator's own for small jobs, a sample's for large ones; and blending pays
where it should.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.output_length import OutputLengths, choose_sample
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.predict import MakespanPredictor
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate_schedule
from sglang_blend.simulate.synthesis import paper_trace, synthesise
from simulate.jobs import COST, lone_cost

OVERLAP = EngineConfig(mode="overlap", admission="peak")


@pytest.fixture(scope="module")
def trace() -> Any:
    """The paper's trace 1 at 10,000 requests on an A100 with an 8B model."""
    return synthesise(COST, paper_trace(1), seed=0)


def planned(trace: Any, cost: Any) -> Any:
    """Schedules of the trace by order, with output lengths from a 1% sample."""
    config = PlanConfig()
    tree = build_prefix_tree(trace.table)
    lengths = OutputLengths(trace.table, tree, config)
    rows = choose_sample(trace.table, tree, config.sample_ratio, np.random.default_rng(0))
    lengths.observe(rows, trace.output_len[rows])
    workload = make_workload(trace.table, cost, config, tree=tree, lengths=lengths.estimate())
    names = ("dfs", "dual-scan", "stationary")
    schedules = {
        o: make_schedule(trace.table, cost, replace(config, order=o), workload=workload) for o in names
    }
    return schedules, workload


@pytest.fixture(scope="module")
def schedules(trace: Any) -> Any:
    """DFS, dual-scan and stationary schedules of it."""
    return planned(trace, COST)[0]


@pytest.mark.slow
def test_small_jobs_are_simulated_whole(trace: Any, schedules: Any) -> None:
    """The prediction with the true lengths is the simulation's makespan."""
    job = SimulatedJob.from_table(trace.table, trace.output_len)
    expected = simulate_schedule(job, schedules["dfs"], COST, OVERLAP).makespan_s
    predictor = MakespanPredictor(trace.table, COST, OVERLAP, output_len=trace.output_len)
    assert predictor(schedules["dfs"]) == expected


@pytest.mark.slow
def test_a_sample_predicts_the_whole_job() -> None:
    """A pool that long requests fill many times over: a third of the job, extended along the work, is
    within 8%.
    """
    cost = lone_cost(15_000)
    trace = synthesise(cost, paper_trace(1, num_requests=6000), seed=0)
    schedules, _ = planned(trace, cost)
    whole = MakespanPredictor(trace.table, cost, OVERLAP, output_len=trace.output_len)
    sampled = MakespanPredictor(trace.table, cost, OVERLAP, output_len=trace.output_len, max_requests=2000)
    assert whole.sample_size(schedules["dfs"]) is None
    for name, schedule in schedules.items():
        size = sampled.sample_size(schedule)
        assert size is not None
        assert 2000 <= size < 4200
        assert sampled(schedule) == pytest.approx(whole(schedule), rel=0.08), name


def test_a_job_that_fills_the_pool_only_a_few_times_is_not_sampled(trace: Any, schedules: Any) -> None:
    """Filling and draining would be most of a sample, so the whole job is simulated."""
    predictor = MakespanPredictor(trace.table, COST, OVERLAP, output_len=trace.output_len, max_requests=1000)
    assert predictor.sample_size(schedules["dfs"]) is None


@pytest.mark.slow
def test_blending_orders_beat_contiguous_dfs_under_overlap(trace: Any, schedules: Any) -> None:
    """Even at this small size; the benchmark script has the numbers at the paper's scale."""
    predictor = MakespanPredictor(trace.table, COST, OVERLAP, output_len=trace.output_len)
    seconds = {name: predictor(schedule) for name, schedule in schedules.items()}
    assert seconds["stationary"] < 0.95 * seconds["dfs"]
    assert seconds["dual-scan"] < 0.97 * seconds["dfs"]


@pytest.mark.slow
def test_sequential_operators_leave_ordering_little_to_win(trace: Any, schedules: Any) -> None:
    """With compute + memory in every step, the orders lie within 10% of each other: little to promise."""
    predictor = MakespanPredictor(
        trace.table, COST, replace(OVERLAP, mode="mixed"), output_len=trace.output_len
    )
    seconds = [predictor(schedule) for schedule in schedules.values()]
    assert max(seconds) < 1.10 * min(seconds)


@pytest.mark.slow
def test_auto_takes_the_order_that_is_predicted_fastest(trace: Any) -> None:
    """`auto` with this predictor names the order and the seconds it rests on."""
    predictor = MakespanPredictor(trace.table, COST, OVERLAP)
    schedules, workload = planned(trace, COST)
    schedule = make_schedule(
        trace.table, COST, PlanConfig(order="auto"), predict=predictor, workload=workload
    )
    assert schedule.order == min(schedules, key=lambda name: predictor(schedules[name]))
    assert schedule.order != "dfs"
    assert "by predicted makespan" in schedule.reason


@pytest.mark.slow
def test_ten_thousand_requests_take_a_few_seconds(trace: Any, schedules: Any) -> None:
    """Generous for a busy machine: under 15 s of processor time, where 1 to 2 s are usual."""
    job = SimulatedJob.from_table(trace.table, trace.output_len)
    started = time.process_time()
    result = simulate_schedule(job, schedules["stationary"], COST, OVERLAP)
    assert time.process_time() - started < 15.0
    assert result.output_tokens == int(np.sum(trace.output_len))
