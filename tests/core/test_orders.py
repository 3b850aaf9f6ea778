"""Every order plans every request once, reproducibly, and the sharing-preserving ones keep their sharing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.shared_files import TEXT_FILES, read_text_file
from core.strategies import tables
from core.toy_cost import ToyCost
from oracles.naive_prefix_tree import NaivePrefixTree
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload, order_names
from sglang_blend.core.request import RequestTable, Schedule, Side
from sglang_blend.errors import PlanError

SHARING_PRESERVING = tuple(n for n in order_names() if n not in ("fcfs", "random", "longest-first"))
SMALL_POOL = ToyCost(kv_pool_tokens=5000)


def plan(table: RequestTable, order: str, seed: int = 0, **config: Any) -> Schedule:
    """A schedule on the toy machine; `auto` predicts by the ranks of long outputs, anything will do."""
    settings = PlanConfig(order=order, seed=seed, **config)

    def predict(schedule: Schedule) -> float:
        return float(schedule.rank @ table.max_new_tokens)

    return make_schedule(table, SMALL_POOL, settings, predict=predict if order == "auto" else None)


@pytest.mark.slow
@given(table=tables(), order=st.sampled_from(order_names()), page_size=st.sampled_from([1, 4]))
@settings(max_examples=300, deadline=None)
def test_each_request_is_planned_exactly_once(table: RequestTable, order: str, page_size: int) -> None:
    """Whatever the lengths, zero outputs included, the schedule is a permutation with sane columns."""
    schedule = plan(table, order, page_size=page_size)
    assert sorted(schedule.sequence.tolist()) == list(range(table.n))
    assert (schedule.est_output_len <= table.max_new_tokens).all()
    assert (schedule.est_output_len <= schedule.admission_output_len).all()
    assert (schedule.admission_output_len <= table.max_new_tokens).all()
    assert (schedule.est_output_len[table.fixed_output] == table.max_new_tokens[table.fixed_output]).all()


@pytest.mark.slow
@given(table=tables(), order=st.sampled_from(SHARING_PRESERVING), page_size=st.sampled_from([1, 2]))
@settings(max_examples=300, deadline=None)
def test_sharing_is_kept_as_counted_token_by_token(table: RequestTable, order: str, page_size: int) -> None:
    """What an order gives up stays within the budget; in a small pool it is never counted as less."""
    schedule = plan(table, order, page_size=page_size)
    naive = NaivePrefixTree(table, page_size)
    unique = naive.num_unique_tokens
    possible = len(table.token_ids) - unique
    computed = naive.num_computed_tokens(schedule.sequence.tolist(), schedule.side)
    kept = 1 - (computed - unique) / possible if possible else 1.0
    assert schedule.sharing_kept <= kept + 1e-9
    assert kept >= 0.99


@pytest.mark.slow
@given(table=tables(), order=st.sampled_from(order_names()), data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_plan_does_not_depend_on_the_order_of_the_lines(
    table: RequestTable, order: str, data: st.DataObject
) -> None:
    """With rids, shuffled lines give the same plan; only fcfs follows the file, as it must."""
    shuffled = np.array(data.draw(st.permutations(range(table.n))), np.int64)
    other = RequestTable.from_lists(
        [table.prompt(row).tolist() for row in shuffled],
        max_new_tokens=table.max_new_tokens[shuffled].tolist(),
        fixed_output=table.fixed_output[shuffled].tolist(),
        namespace=table.namespace[shuffled].tolist(),
        rid=[int(table.rid[row]) for row in shuffled] if table.rid is not None else None,
    )
    if order == "fcfs" or table.rid is None:
        assert plan(other, "fcfs").sequence.tolist() == list(range(table.n))
        return
    assert other.rid is not None
    by_rid = [table.rid[plan(table, order).sequence], other.rid[plan(other, order).sequence]]
    assert by_rid[0].tolist() == by_rid[1].tolist()


@pytest.mark.parametrize("order", order_names())
def test_same_seed_same_bytes_other_seed_other_plan(order: str) -> None:
    """Planning twice gives the same bytes; the seed changes the orders that draw lots."""
    rng = np.random.default_rng(1)
    stems = rng.integers(0, 99, (5, 30)).tolist()
    prompts = [stems[rng.integers(5)] + rng.integers(0, 99, rng.integers(1, 40)).tolist() for _ in range(300)]
    table = RequestTable.from_lists(prompts, max_new_tokens=rng.integers(0, 900, 300).tolist())
    one, same, other = (plan(table, order, seed) for seed in (5, 5, 6))
    for column in ("rank", "side", "unit", "est_output_len", "admission_output_len"):
        assert getattr(one, column).tobytes() == getattr(same, column).tobytes()
    assert (one.sharing_kept, one.config, one.reason) == (same.sharing_kept, same.config, same.reason)
    draws_lots = order in ("random", "stationary", "dual-scan")
    assert (one.rank == other.rank).all() != draws_lots or order == "auto"


@pytest.mark.parametrize("order", order_names())
@pytest.mark.parametrize(
    "table",
    [
        RequestTable.from_lists([]),
        RequestTable.from_lists([[4, 5]], max_new_tokens=[0]),
        RequestTable.from_lists([[4, 5]] * 9, max_new_tokens=7),
        RequestTable.from_lists([[i] for i in range(9)], max_new_tokens=0),
        RequestTable.from_lists([[7] * 100_000, [7] * 99_999, [8]], max_new_tokens=[1, 9000, 9000]),
    ],
    ids=["empty", "one", "identical", "no-output", "100k-tokens"],
)
def test_corner_jobs_have_a_plan(order: str, table: RequestTable) -> None:
    """Empty, one request, all the same, no output at all, prompts far beyond the KV pool."""
    schedule = plan(table, order)
    schedule.check_integrity()
    assert sorted(schedule.sequence.tolist()) == list(range(table.n))


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT_FILES)
def test_every_sharing_preserving_order_keeps_99_percent_of_a_real_file(name: str) -> None:
    """On real prompts of every kind, whatever the order trades, at most 1% of the sharing is lost."""
    table = read_text_file(name)
    workload = make_workload(table, ToyCost(), PlanConfig())
    for order in SHARING_PRESERVING:
        schedule = make_schedule(table, ToyCost(), PlanConfig(order=order), workload=workload)
        assert schedule.sharing_kept >= 0.99, (name, order, schedule.sharing_kept)


def mixed_job(num: int, rng: np.random.Generator) -> RequestTable:
    """Half long prompts over shared prefixes, half long outputs; dfs runs one kind after the other."""
    stem = rng.integers(1, 1000, (50, 600)).tolist()
    dense = [[0, *stem[i % 50], *rng.integers(1, 1000, 1500).tolist()] for i in range(num // 2)]
    sparse = [[1, *rng.integers(1, 1000, 800).tolist()] for _ in range(num // 2)]
    cap = [4] * len(dense) + rng.integers(1000, 2000, len(sparse)).tolist()
    return RequestTable.from_lists([*dense, *sparse], max_new_tokens=cap, fixed_output=True)


@pytest.mark.parametrize("order", ["dual-scan", "stationary"])
def test_blending_orders_keep_the_density_of_the_job_all_along(order: str) -> None:
    """Any tenth of a blended order has nearly the job's density; dfs runs compute first and memory after."""
    table = mixed_job(1000, np.random.default_rng(0))
    cost = ToyCost(kv_pool_tokens=50_000)
    workload = make_workload(table, cost, PlanConfig())

    def tenths(schedule: Schedule) -> list[float]:
        leaf = workload.tree.leaf_of_row[schedule.sequence]
        parts = [np.array_split(load[leaf], 10) for load in (workload.leaf_compute_s, workload.leaf_memory_s)]
        return [float(c.sum() / m.sum()) for c, m in zip(*parts, strict=True)]

    root = workload.root_density
    blended = tenths(make_schedule(table, cost, PlanConfig(order=order), workload=workload))
    # The first and the last part carry the start and the drain.
    assert max(abs(np.log(d / root)) for d in blended[1:-2]) < np.log(1.7), blended
    sequential = tenths(make_schedule(table, cost, PlanConfig(order="dfs"), workload=workload))
    assert max(abs(np.log(d / root)) for d in sequential) > np.log(5)


def test_dual_scan_takes_dense_requests_left_and_sparse_ones_right() -> None:
    """The first left request is compute-intensive, the first right one memory-intensive; both are used."""
    table = mixed_job(400, np.random.default_rng(0))
    schedule = make_schedule(table, ToyCost(kv_pool_tokens=50_000), PlanConfig(order="dual-scan"))
    side = schedule.side[schedule.sequence]
    first_left, first_right = (schedule.sequence[np.argmax(side == s)] for s in (Side.LEFT, Side.RIGHT))
    assert table.max_new_tokens[first_left] == 4
    assert table.max_new_tokens[first_right] >= 1000
    assert (schedule.side[: table.n // 2] == Side.LEFT).mean() > 0.9
    assert (schedule.side[table.n // 2 :] == Side.RIGHT).mean() > 0.9


def test_longest_output_does_not_start_last_in_a_stationary_order() -> None:
    """A request that takes as long as the job starts at once."""
    n = 500
    rng = np.random.default_rng(0)
    cap = rng.integers(1, 20, n)
    cap[123] = 5000
    table = RequestTable.from_lists(
        [[i, 1, 2] for i in range(n)], max_new_tokens=cap.tolist(), fixed_output=True
    )
    ranks = [
        int(make_schedule(table, SMALL_POOL, PlanConfig(order="stationary", seed=s)).rank[123])
        for s in range(20)
    ]
    assert max(ranks) < n * 0.1


def test_auto_takes_the_lowest_prediction_and_says_so() -> None:
    """The injected prediction decides; the reason lists every candidate's seconds."""
    table = mixed_job(200, np.random.default_rng(0))
    seconds = {"dfs": 12.0, "stationary": 10.0, "dual-scan": 11.0}
    schedule = make_schedule(table, ToyCost(), PlanConfig(), predict=lambda s: seconds[s.order])
    assert schedule.order == "stationary"
    assert schedule.reason == (
        "stationary: by predicted makespan (dfs 12.0 s, stationary 10.0 s, dual-scan 11.0 s)"
    )
    near = {"dfs": 12.0, "stationary": 11.99, "dual-scan": 11.98}
    assert make_schedule(table, ToyCost(), PlanConfig(), predict=lambda s: near[s.order]).order == "dfs"
    assert make_schedule(table, ToyCost(), PlanConfig(), predict=lambda s: 1.0).order == "dfs"


def test_auto_falls_back_to_dfs_when_nothing_can_be_blended() -> None:
    """One-sided jobs, equal requests, no output, no cost model, no prediction: dfs, with the reason."""

    def reason(table: RequestTable, cost: ToyCost | None = SMALL_POOL, predict: bool = True) -> str:
        schedule = make_schedule(
            table, cost, PlanConfig(), predict=(lambda s: s.rank[0]) if predict else None
        )
        assert schedule.order == "dfs"
        return schedule.reason

    dense = RequestTable.from_lists([[i] * 500 for i in range(20)], max_new_tokens=1)
    assert "compute takes so much longer than KV reads" in reason(dense)
    sparse = RequestTable.from_lists([[i] for i in range(20)], max_new_tokens=900_000)
    assert "KV reads takes so much longer than compute" in reason(sparse)
    equal = RequestTable.from_lists([[i] * 50 for i in range(20)], max_new_tokens=1000)
    assert "work has another density" in reason(equal) or "same compute density" in reason(equal)
    assert "fewer than two requests" in reason(RequestTable.from_lists([[1]]))
    assert "without a cost model" in reason(equal, cost=None)
    assert "without a prediction" in reason(mixed_job(40, np.random.default_rng(0)), predict=False)


def test_unknown_orders_and_missing_cost_models_are_refused() -> None:
    """The message lists the orders, or says what is missing."""
    table = RequestTable.from_lists([[1], [2]])
    with pytest.raises(PlanError, match="order 'zigzag' is unknown; the orders are fcfs, random, dfs"):
        make_schedule(table, None, PlanConfig(order="zigzag"))
    with pytest.raises(PlanError, match="needs a cost model"):
        make_schedule(table, None, PlanConfig(order="dual-scan"))
    with pytest.raises(PlanError, match=r"sharing_loss is 1.5; a share from 0 to 1"):
        replace(PlanConfig(), sharing_loss=1.5)
    for order in ("fcfs", "random", "dfs", "longest-first"):
        assert make_schedule(table, None, PlanConfig(order=order)).root_density is None


def test_an_order_must_be_faster_also_with_lengths_that_were_drawn() -> None:
    """Faster where every output is as long as expected, slower where they are not: then it is not sure."""
    table = mixed_job(40, np.random.default_rng(0))
    expected = {"dfs": 10.0, "stationary": 5.0, "dual-scan": 8.0}
    drawn = {"dfs": 10.0, "stationary": 10.5, "dual-scan": 8.5}

    def order(name: str) -> str:
        return make_schedule(
            table,
            ToyCost(),
            PlanConfig(order=name),
            predict=lambda s: expected[s.order],
            predict_drawn=lambda s: drawn[s.order],
        ).order

    assert [order(name) for name in ("auto", "stationary", "dual-scan")] == ["dual-scan", "dfs", "dual-scan"]
