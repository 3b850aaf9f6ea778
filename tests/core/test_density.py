"""Densities of requests, subtrees and the job are what the paper's formulas give, computed one by one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.strategies import tables
from core.toy_cost import ToyCost
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.density import compute_density, density_of
from sglang_blend.core.orders import make_workload
from sglang_blend.core.request import RequestTable
from sglang_blend.core.split import cut_by_density, cut_by_work, layer_wise_order
from sglang_blend.errors import PlanError

COST = ToyCost(kv_pool_tokens=5000)


def test_density_of_a_request_is_the_papers_formula() -> None:
    """Comp(r) = 2 (p + d) P / compute, Mem(r) = (p d + d^2 / 2) * 4 H_kv L / bandwidth (section 4)."""
    p, d = 496, 256
    expected = (2 * (p + d) * 8.03e9 / 312e12) / ((p * d + d * d / 2) * 131_072 / 2.039e12)
    cost = ToyCost(attention_flop=0.0)
    assert compute_density(np.array([p]), np.array([d]), cost) == pytest.approx(expected)
    assert compute_density(np.array([p]), np.array([0]), cost).tolist() == [math.inf]
    assert density_of(0.0, 0.0) == math.inf


@pytest.mark.parametrize(
    ("prompt", "output", "sentence"),
    [
        ([5, -1], [1, 1], "request 1 has prompt length -1; 0 or more is allowed"),
        ([5], [-7], "request 0 has output length -7"),
        ([5, 6], [7], "2 prompts and 1 output lengths do not pair"),
    ],
)
def test_bad_lengths_are_refused(prompt: list[int], output: list[int], sentence: str) -> None:
    """One sentence with the value."""
    with pytest.raises(PlanError, match=sentence):
        compute_density(np.array(prompt), np.array(output), COST)


def unique_compute_s(table: RequestTable, rows: list[int], output: np.ndarray) -> float:
    """Compute time of some requests when a cache that forgets nothing serves them, token by token."""
    seen: set[tuple[int, ...]] = set()
    seconds = 0.0
    for row in rows:
        prompt = (int(table.namespace[row]), *table.prompt(row).tolist())
        for end in range(2, len(prompt) + 1):
            if prompt[:end] not in seen:
                seen.add(prompt[:end])
                seconds += float(COST.extend_compute_s(np.array([end - 2]), np.array([1]))[0])
        seconds += output[row] * COST.flop_per_token / COST.flop_per_s
    return seconds


@pytest.mark.slow
@given(table=tables(min_requests=1, max_requests=12))
@settings(max_examples=100, deadline=None)
def test_node_loads_equal_a_cache_that_forgets_nothing(table: RequestTable) -> None:
    """A subtree's compute time counts every distinct token once, its memory time every request."""
    workload = make_workload(table, COST, PlanConfig())
    tree, output = workload.tree, workload.lengths.est_output_len
    for node in range(tree.num_nodes):
        rows = tree.sequence[tree.node_start[node] : tree.node_end[node]]
        assert workload.node_load.compute_s[node] == pytest.approx(
            unique_compute_s(table, rows.tolist(), output), rel=1e-9
        )
        memory = COST.memory_s(table.prompt_len[rows], output[rows]).sum()
        assert workload.node_load.memory_s[node] == pytest.approx(memory, rel=1e-9, abs=1e-15)
    assert workload.leaf_compute_s.sum() == pytest.approx(workload.total.compute_s)
    assert workload.root_density == pytest.approx(float(workload.node_load.density[0]))


@pytest.mark.slow
@given(table=tables(min_requests=1, max_requests=12), data=st.data())
@settings(max_examples=100, deadline=None)
def test_units_cover_the_job_and_carry_their_own_load(table: RequestTable, data: st.DataObject) -> None:
    """However the tree is cut, each unit's load is that of its requests alone."""
    workload = make_workload(table, COST, PlanConfig())
    budget = data.draw(st.floats(0, 100))
    by_work = data.draw(st.booleans())
    units = cut_by_work(workload, 0.1, budget) if by_work else cut_by_density(workload, 2.0, budget)
    assert sorted(set(units.of_leaf.tolist())) == list(range(units.num_units))
    for unit in range(units.num_units):
        rows = workload.tree.sequence[units.of_leaf == unit]
        seconds = unique_compute_s(table, rows.tolist(), workload.lengths.est_output_len)
        assert units.load.compute_s[unit] == pytest.approx(seconds, rel=1e-9)


@pytest.mark.slow
@given(table=tables(max_requests=16))
@settings(max_examples=100, deadline=None)
def test_layer_wise_order_equals_sorting_every_child_list(table: RequestTable) -> None:
    """Algorithm 1 by recursion gives the same leaves."""
    workload = make_workload(table, COST, PlanConfig())
    tree, node_density = workload.tree, workload.node_load.density

    def leaves_below(node: int) -> list[int]:
        children = [
            (-float(node_density[c]), int(tree.node_start[c]), leaves_below(c))
            for c in range(1, tree.num_nodes)
            if tree.node_parent[c] == node
        ]
        loose = np.flatnonzero(tree.leaf_parent == node).tolist()
        children += [(-float(workload.leaf_density[leaf]), leaf, [leaf]) for leaf in loose]
        return [leaf for child in sorted(children) for leaf in child[2]]

    assert layer_wise_order(workload).tolist() == leaves_below(0)
