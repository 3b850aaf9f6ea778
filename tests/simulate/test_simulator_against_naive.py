"""The fast simulator takes the same steps as the obvious one, on small random jobs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attention.batches import FREE
from core.strategies import tables
from oracles.naive_simulator import NaiveEngine
from sglang_blend.cost.break_even import BreakEven
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.simulate.engine_config import MODES, EngineConfig
from sglang_blend.simulate.feed import ListFeed
from sglang_blend.simulate.simulated_engine import SimulatedEngine
from sglang_blend.simulate.simulated_job import SimulatedJob


@st.composite
def small_jobs(draw: st.DrawFn) -> tuple[SimulatedJob, np.ndarray, int]:
    """A job, an order and a pool that is tight for it."""
    table = draw(tables(min_requests=1, max_requests=12))
    output_len = np.array(
        draw(st.lists(st.integers(0, 40), min_size=table.n, max_size=table.n)), dtype=np.int64
    )
    est = np.array(draw(st.lists(st.integers(0, 40), min_size=table.n, max_size=table.n)), dtype=np.float64)
    table = replace(table, max_new_tokens=np.maximum(output_len, 1))
    job = replace(SimulatedJob.from_table(table, output_len), est_output_len=est, admission_output_len=est)
    largest = int((table.prompt_len + np.maximum(output_len, 1)).max())
    pool = largest + 1 + draw(st.integers(0, 150))
    return job, np.array(draw(st.permutations(range(table.n))), dtype=np.int64), pool


def engines(job, sequence, pool, config, shape="llama-3-8b", shared_reads=None):
    """Both simulators, run to the end."""
    cost = RooflineCost(
        shared_reads=shared_reads,
        shape=replace(model_shape(shape), window=24) if shape == "gemma-2-9b" else model_shape(shape),
        hardware=hardware("A100"),
        pool_tokens=pool,
    )
    fast = SimulatedEngine(job, ListFeed(sequence), cost, config)
    fast.run()
    naive = NaiveEngine(job, sequence, cost, config)
    naive.run()
    return fast, naive


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    case=small_jobs(),
    admission=st.sampled_from(["peak", "ratio", "reserve"]),
    eviction=st.sampled_from(["lru", "demand"]),
    new_prefixes=st.sampled_from(["known", "wait", "recompute"]),
    least=st.sampled_from([None, 1, 32]),
    chunk=st.sampled_from([None, 7, 64]),
    shape=st.sampled_from(["llama-3-8b", "gemma-2-9b", "mixtral"]),
    shared_reads=st.sampled_from([None, FREE, BreakEven(group_tokens=5, reader_tokens=0.5)]),
)
def test_fast_simulator_takes_the_steps_of_the_obvious_one(
    mode, case, admission, eviction, new_prefixes, least, chunk, shape, shared_reads
):
    """Steps, retractions, computed and recomputed tokens are equal, the time is equal up to rounding."""
    job, sequence, pool = case
    config = EngineConfig(
        mode=mode,
        admission=admission,
        eviction=eviction,
        new_prefixes=new_prefixes,
        paced=least is not None,
        min_prefill_tokens=least or 32,
        chunk_tokens=chunk,
    )
    fast, naive = engines(job, sequence, pool, config, shape, shared_reads)
    result = fast.result()
    assert result.num_steps == naive.num_steps
    assert result.retractions == naive.retractions
    assert (result.computed_tokens, result.recomputed_tokens) == (naive.computed, naive.recomputed)
    assert result.output_tokens == naive.output_tokens == int(job.output_len.sum())
    assert result.makespan_s == pytest.approx(naive.now_s, rel=1e-9)
    fast.pool.check_integrity()
    assert fast.pool.in_use == 0
    assert fast.finished == dict.fromkeys(range(job.n), 1)
