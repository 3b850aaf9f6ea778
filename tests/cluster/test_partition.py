"""The cut of a job: each request in one part, equal loads or the shares asked for, little sharing lost."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.strategies import tables
from core.toy_cost import ToyCost
from oracles.naive_prefix_tree import NaivePrefixTree
from sglang_blend.cluster.partition import Partition, cut
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_workload
from sglang_blend.core.request import RequestTable
from sglang_blend.errors import PlanError

SHARES = st.one_of(
    st.integers(1, 9).map(lambda num: [1.0] * num),
    st.lists(st.floats(0.2, 5.0), min_size=1, max_size=6),
)


def cut_table(table: RequestTable, shares: list[float], *, has_cost: bool = True, **config: Any) -> Partition:
    """The parts of a table on the toy machine."""
    settings = PlanConfig(**config)
    workload = make_workload(table, ToyCost() if has_cost else None, settings)
    return cut(workload, settings, shares)


def naive_unique_tokens(table: RequestTable, page_size: int) -> int:
    """Tokens that one cache must compute, from a dictionary of pages."""
    return NaivePrefixTree(table, page_size).num_unique_tokens


def rows_of(table: RequestTable, rows: list[int]) -> RequestTable:
    """Some rows as a table of their own."""
    return RequestTable.from_lists(
        [table.prompt(row).tolist() for row in rows],
        max_new_tokens=table.max_new_tokens[rows].tolist(),
        fixed_output=table.fixed_output[rows].tolist(),
        namespace=table.namespace[rows].tolist(),
        rid=None if table.rid is None else [int(table.rid[row]) for row in rows],
    )


def grouped_table(num: int, seed: int = 0, *, num_groups: int = 40) -> RequestTable:
    """Half of it short answers over shared prefixes, half long answers over prompts of their own."""
    rng = np.random.default_rng(seed)
    prefix_len, dense_len, sparse_len = 200, 30, 60
    num_dense = num // 2
    dense = rng.integers(1000, 9999, (num_dense, prefix_len + dense_len), np.int32)
    stems = rng.integers(1000, 9999, (num_groups, prefix_len), np.int32)
    dense[:, :prefix_len] = stems[rng.integers(0, num_groups, num_dense)]
    sparse = rng.integers(1000, 9999, (num - num_dense, sparse_len), np.int32)
    prompt_len = np.repeat([dense.shape[1], sparse_len], [num_dense, num - num_dense])
    output_len = np.where(prompt_len == sparse_len, rng.integers(200, 2000, num), rng.integers(1, 20, num))
    return RequestTable(
        token_ids=np.concatenate([dense.ravel(), sparse.ravel()]),
        offsets=np.append(0, np.cumsum(prompt_len)).astype(np.int64),
        max_new_tokens=output_len.astype(np.int64),
        fixed_output=np.ones(num, np.bool_),
        namespace=np.zeros(num, np.int32),
    )


@pytest.mark.slow
@given(table=tables(), shares=SHARES, page_size=st.sampled_from([1, 4]), has_cost=st.booleans())
@settings(max_examples=300, deadline=None)
def test_each_request_is_in_one_part_and_the_loads_add_up(
    table: RequestTable, shares: list[float], page_size: int, has_cost: bool
) -> None:
    """Parts are numbered as the shares, and their loads add up, with a cost model or without."""
    cost = ToyCost() if has_cost else None
    workload = make_workload(table, cost, PlanConfig(page_size=page_size))
    parts = cut(workload, PlanConfig(page_size=page_size), shares)
    assert parts.num_parts == len(shares)
    assert parts.of_row.shape == (table.n,)
    assert ((parts.of_row >= 0) & (parts.of_row < len(shares))).all()
    if has_cost:
        assert parts.compute_s.sum() == pytest.approx(workload.leaf_compute_s.sum())
        assert parts.memory_s.sum() == pytest.approx(workload.leaf_memory_s.sum())
    else:
        assert parts.compute_s.sum() == workload.tree.num_unique_tokens
        assert parts.memory_s.sum() == workload.leaf_output_len.sum()


@pytest.mark.slow
@given(table=tables(), shares=SHARES, page_size=st.sampled_from([1, 4]), has_cost=st.booleans())
@settings(max_examples=200, deadline=None)
def test_lost_tokens_are_those_that_each_part_counts_for_itself(
    table: RequestTable, shares: list[float], page_size: int, has_cost: bool
) -> None:
    """A trie for each part, token by token: together they hold the tokens of the whole and the lost ones."""
    parts = cut_table(table, shares, has_cost=has_cost, page_size=page_size)
    alone = sum(
        naive_unique_tokens(rows_of(table, np.flatnonzero(parts.of_row == part).tolist()), page_size)
        for part in range(len(shares))
    )
    whole = naive_unique_tokens(table, page_size)
    assert parts.unique_tokens == whole
    assert parts.lost_tokens == alone - whole
    assert parts.lost_ratio == (pytest.approx((alone - whole) / whole) if whole else 0.0)


@pytest.mark.slow
@given(
    table=tables(max_requests=40),
    shares=SHARES,
    has_cost=st.booleans(),
    loss=st.sampled_from([0.0, 0.01, 0.3]),
)
@settings(max_examples=300, deadline=None)
def test_sharing_lost_is_the_budget_and_a_path_for_each_end_of_a_part(
    table: RequestTable, shares: list[float], has_cost: bool, loss: float
) -> None:
    """No more, whatever the shapes of tree and shares; one part loses nothing."""
    settings = PlanConfig(sharing_loss=loss)
    workload = make_workload(table, ToyCost() if has_cost else None, settings)
    parts = cut(workload, settings, shares)
    tree = workload.tree
    deepest = int(tree.node_depth.max(initial=0))
    budget = loss * min(tree.num_shared_tokens, tree.num_unique_tokens)
    assert 0 <= parts.lost_tokens <= budget + 2 * (len(shares) - 1) * deepest
    if len(shares) == 1:
        assert parts.lost_tokens == 0


@pytest.mark.slow
@given(table=tables(min_requests=1, max_requests=40), shares=SHARES)
@settings(max_examples=300, deadline=None)
def test_loads_follow_the_shares_but_for_the_ends(table: RequestTable, shares: list[float]) -> None:
    """Compute and memory of a part miss its share by the tolerance, and one heaviest leaf and a half.

    Parts end between leaves, so half a leaf is the least at each end.
    """
    config = PlanConfig()
    workload = make_workload(table, ToyCost(), config)
    parts = cut(workload, config, shares)
    wanted = np.array(shares) / sum(shares)
    work = workload.leaf_work_s
    for load in (parts.compute_s, parts.memory_s):
        miss = np.abs(load - wanted * load.sum())
        assert (miss <= 1.5 * work.max() + 0.005 * wanted * work.sum()).all()


@pytest.mark.slow
@given(table=tables(), shares=SHARES, data=st.data())
@settings(max_examples=200, deadline=None)
def test_parts_do_not_depend_on_the_order_of_the_lines(
    table: RequestTable, shares: list[float], data: st.DataObject
) -> None:
    """With rids, shuffled lines are cut the same way; and the same job twice gives the same parts."""
    shuffled = data.draw(st.permutations(range(table.n)))
    parts, again = cut_table(table, shares), cut_table(table, shares)
    other = cut_table(rows_of(table, shuffled), shares)
    assert (parts.of_row == again.of_row).all()
    if table.rid is not None:
        assert (other.of_row == parts.of_row[shuffled]).all()
        assert other.lost_tokens == parts.lost_tokens


def test_the_seed_draws_another_sample() -> None:
    """Units are shuffled by it."""
    table = grouped_table(400)
    first, same, other = (cut_table(table, [1.0] * 4, seed=seed).of_row for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()


@pytest.mark.parametrize("num", [2, 3, 8, 13])
def test_equal_parts_of_a_large_job_have_equal_loads_and_the_density_of_the_whole(num: int) -> None:
    """With leaves that are small against a part, both loads are within 1% of an equal share."""
    config = PlanConfig()
    workload = make_workload(grouped_table(20_000), ToyCost(), config)
    parts = cut(workload, config, [1.0] * num)
    for load in (parts.compute_s, parts.memory_s):
        assert load == pytest.approx(np.full(num, load.sum() / num), rel=0.01)
    assert parts.compute_s / parts.memory_s == pytest.approx(np.full(num, workload.root_density), rel=0.02)
    assert parts.work_ratio == pytest.approx(np.full(num, 1 / num), rel=0.01)
    assert parts.lost_ratio < 0.01


def test_a_replica_that_is_twice_as_fast_gets_twice_the_work() -> None:
    """Whatever the unit that shares are given in."""
    table = grouped_table(8_000)
    parts = cut_table(table, [10.0, 20.0, 5.0])
    for load in (parts.compute_s, parts.memory_s):
        assert load / load.sum() == pytest.approx(np.array([10, 20, 5]) / 35, abs=0.005)
    assert (parts.of_row == cut_table(table, [2.0, 4.0, 1.0]).of_row).all()


def test_every_part_is_a_sample_of_the_whole() -> None:
    """Long outputs do not gather in some parts, though all of them stand together in the tree."""
    table = grouped_table(8_000)
    parts = cut_table(table, [1.0] * 4)
    long = np.bincount(parts.of_row, table.max_new_tokens >= 1500, 4)
    assert long == pytest.approx(np.full(4, long.mean()), rel=0.15)


def test_more_parts_than_requests_leave_parts_empty() -> None:
    """And no request is torn."""
    table = RequestTable.from_lists([[1, 2, 3], [1, 2, 4], [9]], max_new_tokens=[5, 5, 5])
    parts = cut_table(table, [1.0] * 8)
    assert len(set(parts.of_row.tolist())) <= 3
    assert parts.num_parts == 8
    assert np.count_nonzero(parts.compute_s) <= 3


@pytest.mark.parametrize("num", [1, 5])
def test_an_empty_job_has_empty_parts(num: int) -> None:
    """Nothing to lose and nothing to do."""
    parts = cut_table(RequestTable.from_lists([]), [1.0] * num)
    assert parts.of_row.shape == (0,)
    assert parts.compute_s.tolist() == parts.memory_s.tolist() == [0.0] * num
    assert (parts.lost_tokens, parts.unique_tokens, parts.lost_ratio) == (0, 0, 0.0)


def test_equal_prompts_are_divided() -> None:
    """One prompt a thousand times: every part computes it once, and all have the same to do."""
    parts = cut_table(RequestTable.from_lists([[7] * 50] * 1000, max_new_tokens=100), [1.0] * 4)
    assert np.bincount(parts.of_row).tolist() == [250] * 4
    assert parts.lost_tokens == 3 * 50


def test_a_job_without_output_is_cut_by_compute_alone() -> None:
    """There is no memory time to balance."""
    table = RequestTable.from_lists([[i] * 20 for i in range(100)], max_new_tokens=0)
    parts = cut_table(table, [1.0] * 4)
    assert np.bincount(parts.of_row, minlength=4).tolist() == [25] * 4


@pytest.mark.parametrize(
    "shares", [[], [1.0, 0.0], [1.0, -2.0], [1.0, float("nan")], [float("inf")]], ids=str
)
def test_shares_that_make_no_sense_are_refused(shares: list[float]) -> None:
    """The sentence has them and says what is needed."""
    with pytest.raises(PlanError, match="one number above 0 for each replica is needed") as caught:
        cut_table(RequestTable.from_lists([[1]]), shares)
    assert str(shares) in str(caught.value)


@pytest.mark.slow
def test_200_000_requests_are_cut_into_512_parts() -> None:
    """Equal loads and little lost, in seconds of processor time; the bound leaves room for a busy machine."""
    config = PlanConfig()
    workload = make_workload(grouped_table(200_000, num_groups=500), ToyCost(), config)
    assert workload.node_load.memory_s[0] > 0  # what planning needs in any case is not the cut's time
    started = time.process_time()
    parts = cut(workload, config, [1.0] * 512)
    assert time.process_time() - started < 20
    for load in (parts.compute_s, parts.memory_s):
        assert load == pytest.approx(np.full(512, load.sum() / 512), rel=0.02)
    tree = workload.tree
    budget = 0.01 * min(tree.num_shared_tokens, tree.num_unique_tokens)
    assert parts.lost_tokens <= budget + 2 * 511 * int(tree.node_depth.max())
