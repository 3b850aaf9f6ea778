"""What the simulated engine promises: nothing lost, no budget exceeded, no bound beaten, and the effects of
its rules.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.core.request import RequestTable
from sglang_blend.errors import ConfigError, PlanError
from sglang_blend.simulate.engine_config import MODES, EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import engine_of, simulate
from simulate.jobs import COST, grouped_job, lone_cost


@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    admission=st.sampled_from(["peak", "ratio", "reserve"]),
    seed=st.integers(0, 1000),
    pool=st.integers(4_000, 40_000),
    chunk=st.sampled_from([200, 2048]),
)
def test_each_request_finishes_once_and_no_bound_is_beaten(
    mode: Any, admission: Any, seed: Any, pool: Any, chunk: Any
) -> None:
    """Every output token is made once, the pool is empty and consistent at the end, and no optimum is
    beaten.
    """
    job = grouped_job(150, seed)
    config = EngineConfig(mode=mode, admission=admission, chunk_tokens=chunk)
    engine = engine_of(job, np.arange(job.n), lone_cost(pool), config)
    engine.run()
    result = engine.result()
    assert engine.finished == dict.fromkeys(range(job.n), 1)
    assert result.output_tokens == int(job.output_len.sum())
    engine.pool.check_integrity()
    assert engine.pool.in_use == 0
    assert job.tree.unique_tokens <= result.computed_tokens <= int(job.tree.prompt_len.sum())
    assert 0.0 <= result.sharing_kept <= 1.0
    assert result.makespan_s > result.bounds.optimum_s
    if mode in ("default", "mixed"):
        assert result.makespan_s > result.bounds.sequential_s - result.bounds.compute_s * 0.01
    assert 0.0 < result.mean_kv_occupancy <= 1.0


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(["mixed", "overlap"]),
    paced=st.booleans(),
    seed=st.integers(0, 100),
    chunk=st.integers(64, 600),
)
def test_the_token_budget_is_never_exceeded(mode: Any, paced: Any, seed: Any, chunk: Any) -> None:
    """No step with prefill has more tokens than its budget."""
    job = grouped_job(100, seed)
    config = EngineConfig(mode=mode, paced=paced, chunk_tokens=chunk)
    steps = simulate(job, np.arange(job.n), lone_cost(20_000), config, record_timeline=True).timeline
    assert steps is not None
    prefill = steps.prefill_tokens > 0
    room = chunk - steps.batch_size[prefill]
    # A recorded batch is that of the step's start, when the budget was divided.
    assert (steps.prefill_tokens[prefill] <= room).all()
    assert steps.tokens_in_use.max() <= 20_000


def test_one_request_takes_the_time_of_its_steps() -> None:
    """Prefill in one step, then one step a token: the sum written out by hand."""
    job = SimulatedJob.from_table(
        RequestTable.from_lists([list(range(100))], max_new_tokens=4), np.array([4])
    )
    config = EngineConfig(mode="default")
    weights_s, kv_s = COST.weight_s(1), COST.kv_read_s[0]
    prefill_s = max(COST.gemm_s(100, 1), weights_s) + 5050 * COST.pair_s[0] + config.step_overhead_s
    decode_s = sum(weights_s + (100 + i) * kv_s + config.step_overhead_s for i in (1, 2, 3))
    assert simulate(job, np.array([0]), COST, config).makespan_s == pytest.approx(
        prefill_s + decode_s, rel=1e-12
    )


def test_retraction_loses_no_token_and_is_counted() -> None:
    """Lengths far above the estimates overflow a small pool: requests go back, are computed again, and all
    finish.
    """
    n = 40
    table = RequestTable.from_lists([[i] * 50 for i in range(1, n + 1)], max_new_tokens=400)
    job = SimulatedJob.from_table(table, np.full(n, 300), np.full(n, 5))
    for mode in MODES:
        result = simulate(job, np.arange(n), lone_cost(4_000), EngineConfig(mode=mode, admission="peak"))
        assert result.retractions > 0
        assert result.recomputed_tokens > 50 * result.retractions
        assert result.output_tokens == n * 300
        assert result.computed_tokens == n * 50


def test_peak_admission_with_known_lengths_never_retracts_in_mixed_steps() -> None:
    """Expected peaks that are true fit, by construction; stock admission gambles and retracts."""
    rng = np.random.default_rng(3)
    n = 200
    table = RequestTable.from_lists(
        [rng.integers(0, 1000, 60).tolist() for _ in range(n)], max_new_tokens=600
    )
    job = SimulatedJob.from_table(table, rng.integers(300, 600, n))
    peak = simulate(job, np.arange(n), lone_cost(8_000), EngineConfig(mode="default", admission="peak"))
    ratio = simulate(
        job, np.arange(n), lone_cost(8_000), EngineConfig(mode="default", admission="ratio", ratio_start=0.1)
    )
    assert peak.retractions == 0
    assert ratio.retractions > 0


def test_an_order_that_keeps_groups_together_keeps_sharing() -> None:
    """Twenty groups that do not fit together: grouped order shares everything, shuffled order little."""
    job = grouped_job(400, 1, groups=20, prefix_len=800)
    grouped = np.lexsort((np.arange(job.n), job.tree.leaf))
    shuffled = np.random.default_rng(0).permutation(job.n)
    config = EngineConfig(mode="mixed")
    kept = [simulate(job, order, lone_cost(6_000), config).sharing_kept for order in (grouped, shuffled)]
    assert kept[0] > 0.99
    assert kept[1] < 0.6


def test_demand_aware_eviction_keeps_what_is_still_needed() -> None:
    """With LRU, leftovers of finished requests push out prefixes that waiting requests need."""
    job = grouped_job(400, 2, groups=12, prefix_len=700)
    order = np.random.default_rng(1).permutation(job.n)
    kept = {
        policy: simulate(
            job, order, lone_cost(12_000), EngineConfig(mode="default", eviction=policy)
        ).sharing_kept
        for policy in ("lru", "demand")
    }
    assert kept["demand"] > kept["lru"] + 0.05


def test_overlap_is_faster_than_the_same_steps_in_sequence() -> None:
    """Same steps, same order, compute and KV reads of about equal weight: only the operators overlap."""
    n = 200
    prompts = [[i] * 2000 if i % 2 else [i] * 3000 for i in range(1, n + 1)]
    output_len = np.array([2 if i % 2 else 800 for i in range(1, n + 1)])
    job = SimulatedJob.from_table(RequestTable.from_lists(prompts, max_new_tokens=800), output_len)
    seconds = [
        simulate(job, np.arange(n), COST, EngineConfig(mode=mode, chunk_tokens=512)).makespan_s
        for mode in ("mixed", "overlap")
    ]
    assert seconds[1] < 0.95 * seconds[0]


def test_windows_shorten_decode() -> None:
    """A model whose layers forget reads less KV."""
    table = RequestTable.from_lists([[i] * 3000 for i in range(1, 9)], max_new_tokens=500)
    job = SimulatedJob.from_table(table, np.full(8, 500))
    shape = COST.shape
    cut = replace(COST, shape=replace(shape, window=256, num_window_layers=shape.num_layers))
    plain = simulate(job, np.arange(8), COST, EngineConfig())
    windowed = simulate(job, np.arange(8), cut, EngineConfig())
    assert windowed.makespan_s < plain.makespan_s
    assert windowed.bounds.memory_s < 0.2 * plain.bounds.memory_s


def test_edge_cases_end() -> None:
    """No request, one request without output, and prompts that are all alike."""
    empty = SimulatedJob.from_table(RequestTable.from_lists([]), np.zeros(0, np.int64))
    assert simulate(empty, np.zeros(0, np.int64), COST, EngineConfig()).makespan_s == 0.0
    alone = SimulatedJob.from_table(
        RequestTable.from_lists([[1, 2]], max_new_tokens=0), np.zeros(1, np.int64)
    )
    assert simulate(alone, np.zeros(1, np.int64), COST, EngineConfig()).output_tokens == 0
    same = SimulatedJob.from_table(RequestTable.from_lists([[7] * 30] * 50, max_new_tokens=3), np.full(50, 3))
    for mode in MODES:
        result = simulate(same, np.arange(50), COST, EngineConfig(mode=mode, admission="peak"))
        # A prompt that is cached as a whole still computes its last token.
        assert result.computed_tokens == 30 + 49


def test_requests_that_can_never_fit_and_wrong_orders_are_refused() -> None:
    """The sentence names the request and the pool, or the order's length."""
    job = SimulatedJob.from_table(RequestTable.from_lists([[1], [2] * 90], max_new_tokens=20), np.full(2, 20))
    with pytest.raises(PlanError, match="request 1 needs 110 tokens of KV, the pool holds 100"):
        simulate(job, np.arange(2), lone_cost(100), EngineConfig())
    with pytest.raises(PlanError, match="each once"):
        simulate(job, np.zeros(2, np.int64), COST, EngineConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "fast"},
        {"admission": "hope"},
        {"eviction": "fifo"},
        {"chunk_tokens": 0},
    ],
)
def test_engine_configs_that_make_no_sense_are_refused(wrong: Any) -> None:
    """Each names its value."""
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        EngineConfig(**wrong)


def test_only_our_policies_pace_mixed_chunk() -> None:
    """SGLang's own fill every chunk, whatever was asked for."""
    mixed = EngineConfig(mode="mixed")
    assert mixed.under("dual-scan").paced
    assert not EngineConfig().under("dual-scan").paced
    assert not replace(mixed, paced=True).under("lpm").paced


def test_integrity_check_sees_a_lost_token() -> None:
    """The pool's recount is a real one."""
    job = grouped_job(50, 0)
    engine = engine_of(job, np.arange(job.n), lone_cost(20_000), EngineConfig())
    engine.run()
    engine.pool.free -= 1
    with pytest.raises(AssertionError, match="19999 tokens accounted for in a pool of 20000"):
        engine.pool.check_integrity()


def test_the_timeline_has_all_work_and_all_tokens_of_the_job() -> None:
    """What the recorded steps need adds up to the work of the job, whichever engine ran them."""
    job = grouped_job(80, 3)
    for mode in ("default", "mixed", "overlap", "pdmux"):
        result = simulate(
            job,
            np.arange(job.n),
            lone_cost(20_000),
            EngineConfig(mode=mode),
            record_timeline=True,
            is_left=np.arange(job.n) < 40,
        )
        steps = result.timeline
        assert steps is not None
        assert steps.left_ratio is not None
        assert result.retractions == 0
        # The first token of an output comes with its prefill.
        assert steps.decode_tokens.sum() == np.maximum(job.output_len - 1, 0).sum()
        assert steps.prefill_tokens.sum() >= result.computed_tokens
        assert steps.kv_read_s.sum() == pytest.approx(result.bounds.memory_s, rel=0.05)
        assert steps.compute_s.sum() >= 0.95 * result.bounds.compute_s
        assert steps.num_waiting[-1] == 0
        assert 0 <= steps.left_ratio.min() <= steps.left_ratio.max() <= 1
        assert 0 < steps.left_ratio.mean() < 1


@pytest.mark.parametrize(("admission", "computed", "steps"), [("peak", 130, 12), ("reserve", 230, 11)])
def test_a_prefix_in_flight_costs_its_sharers_a_step_or_its_tokens(
    admission: Any, computed: int, steps: int
) -> None:
    """Two prompts of 100 equal tokens and 15 others each, eleven output tokens; ours wait, stock computes."""
    prefix = list(range(1000, 1100))
    table = RequestTable.from_lists([[*prefix, *range(15)], [*prefix, *range(20, 35)]], max_new_tokens=11)
    job = SimulatedJob.from_table(table, np.array([11, 11]))
    result = simulate(job, np.array([0, 1]), lone_cost(400), EngineConfig(admission=admission))
    assert (result.computed_tokens, result.num_steps) == (computed, steps)


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    admission=st.sampled_from(["peak", "ratio", "reserve"]),
    eviction=st.sampled_from(["lru", "demand"]),
    queue=st.sampled_from(["fcfs", "lpm", "dfs-weight"]),
    paced=st.booleans(),
    pool=st.integers(1_500, 8_000),
    chunk=st.sampled_from([64, 200, 2048]),
    seed=st.integers(0, 50),
    max_running=st.sampled_from([3, 4096]),
)
def test_many_decode_steps_at_once_are_as_many_single_ones(
    mode: Any,
    admission: Any,
    eviction: Any,
    queue: Any,
    paced: Any,
    pool: Any,
    chunk: Any,
    seed: Any,
    max_running: Any,
) -> None:
    """The same steps, tokens and retractions, the same time up to rounding; the pool adds up after each."""
    job = grouped_job(40, seed)
    config = EngineConfig(
        mode=mode,
        admission=admission,
        eviction=eviction,
        queue=queue,
        paced=paced,
        chunk_tokens=chunk,
        max_running=max_running,
    )
    order = np.random.default_rng(seed).permutation(job.n)
    fast, single = (engine_of(job, order, lone_cost(pool), config) for _ in range(2))
    running: Any = single.running
    running.next_event = lambda: 1
    fast.run()
    while single.has_work:
        single.step()
        single.pool.check_integrity()
    expected = single.result()
    result = fast.result()
    for name in ("num_steps", "retractions", "computed_tokens", "recomputed_tokens", "output_tokens"):
        assert getattr(result, name) == getattr(expected, name), name
    assert result.makespan_s == pytest.approx(expected.makespan_s, rel=1e-9)
