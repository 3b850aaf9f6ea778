"""Expected output lengths follow what has finished, subtree by subtree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.strategies import tables
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.output_length import OutputLengths, choose_sample, remaining_len
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable
from sglang_blend.errors import PlanError


def two_tasks(num: int = 200, cap: int = 1000) -> RequestTable:
    """Two tasks with a prefix each, below one shared chat template."""
    prompts = [[9, 9, row % 2, 7, row] for row in range(num)]
    return RequestTable.from_lists(prompts, max_new_tokens=cap)


def test_each_task_is_expected_to_go_on_as_its_sample_did() -> None:
    """A subtree takes its own mean and quantile, not its sibling's."""
    table = two_tasks()
    lengths = OutputLengths(table, build_prefix_tree(table), PlanConfig())
    lengths.observe(np.arange(20), np.array([100, 500] * 10))
    estimate = lengths.estimate()
    assert set(estimate.est_output_len[0::2].tolist()) == {100}
    assert set(estimate.est_output_len[1::2].tolist()) == {500}
    assert estimate.num_observed == 20
    lengths.observe(np.arange(20, 40), np.arange(0, 400, 20))
    spread = lengths.estimate()
    assert (spread.admission_output_len >= spread.est_output_len).all()
    # Even rows have seen ten times 100 and 0, 40, ..., 360; nine tenths (18 of 20) do not exceed 280.
    assert spread.est_output_len[100] == round((1000 + sum(range(0, 400, 40))) / 20)
    assert spread.admission_output_len[100] == 280


def test_a_task_without_samples_takes_its_parents_mean() -> None:
    """Climbing stops at the first subtree with enough finished requests."""
    table = two_tasks()
    lengths = OutputLengths(table, build_prefix_tree(table), PlanConfig(min_samples=3))
    lengths.observe(np.array([0, 2, 4]), np.array([30, 40, 50]))
    assert set(lengths.estimate().est_output_len.tolist()) == {40}
    lengths.observe(np.array([1, 3]), np.array([900, 900]))
    # Two samples are too few for the second task, which falls back to all five.
    assert lengths.estimate().est_output_len[5] == (30 + 40 + 50 + 900 + 900) // 5
    assert lengths.estimate().est_output_len[6] == 40


def test_tasks_that_share_only_a_template_are_told_apart_by_their_caps() -> None:
    """A finished request speaks for those with a cap of its size before it speaks for others."""
    prompts = [[9, 9, row] for row in range(100)]
    caps = [64 if row % 2 else 2000 for row in range(100)]
    table = RequestTable.from_lists(prompts, max_new_tokens=caps)
    lengths = OutputLengths(table, build_prefix_tree(table), PlanConfig())
    lengths.observe(np.arange(10), np.array([1200, 20] * 5))
    estimate = lengths.estimate().est_output_len
    assert estimate[50] == 1200
    assert estimate[51] == 20


def test_without_samples_a_part_of_the_cap_is_expected_and_fixed_lengths_are_exact() -> None:
    """Half the cap by default; 0 stays 0, 1 stays 1."""
    table = RequestTable.from_lists(
        [[1], [2], [3], [4]], max_new_tokens=[0, 1, 1000, 77], fixed_output=[False, False, False, True]
    )
    estimate = OutputLengths(table, build_prefix_tree(table), PlanConfig()).estimate()
    assert estimate.est_output_len.tolist() == [0, 1, 500, 77]
    assert estimate.admission_output_len.tolist() == [0, 1, 700, 77]


@pytest.mark.slow
@given(table=tables(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_estimates_equal_climbing_the_tree_one_request_at_a_time(
    table: RequestTable, data: st.DataObject
) -> None:
    """Each mean is the mean of the finished requests in the smallest subtree with enough of its cap class."""
    config = PlanConfig(min_samples=2)
    tree = build_prefix_tree(table)
    rows = np.array(
        sorted(data.draw(st.sets(st.integers(0, table.n - 1)) if table.n else st.just(set()))), np.int64
    )
    true = [data.draw(st.integers(0, int(table.max_new_tokens[row]))) for row in rows]
    lengths = OutputLengths(table, tree, config)
    lengths.observe(rows, np.array(true, np.int64))
    done = {int(r): t for r, t in zip(rows, true, strict=True) if not table.fixed_output[r]}
    estimate = lengths.estimate()

    def cap_class(row: int) -> int:
        return int(table.max_new_tokens[row]).bit_length()

    for row in range(table.n):
        cap = int(table.max_new_tokens[row])
        node = int(tree.leaf_parent[tree.leaf_of_row[row]])
        path = [node]
        while path[-1]:
            path.append(int(tree.node_parent[path[-1]]))
        expected = np.ceil(cap * config.unsampled_ratio)
        for same_class, least in ((True, config.min_samples), (False, 1)):
            found = []
            for node in path:
                below = tree.sequence[tree.node_start[node] : tree.node_end[node]].tolist()
                found = [
                    done[r] for r in below if r in done and (not same_class or cap_class(r) == cap_class(row))
                ]
                if len(found) >= least:
                    break
            if len(found) >= least:
                expected = np.rint(np.mean(found))
                break
        if table.fixed_output[row]:
            expected = cap
        assert estimate.est_output_len[row] == min(max(expected, min(cap, 1)), cap)


@pytest.mark.slow
@given(table=tables(), ratio=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_the_sample_is_spread_over_the_tree(table: RequestTable, ratio: float, seed: int) -> None:
    """As many as asked, none twice, none of known length, one in each stretch of the leaves."""
    tree = build_prefix_tree(table)
    rows = choose_sample(table, tree, ratio, np.random.default_rng(seed))
    unknown = [row for row in tree.sequence.tolist() if not table.fixed_output[row]]
    assert len(set(rows.tolist())) == len(rows) == int(np.ceil(len(unknown) * ratio))
    for number, row in enumerate(rows.tolist()):
        low, high = (len(unknown) * k // len(rows) for k in (number, number + 1))
        assert low <= unknown.index(row) < high
    again = choose_sample(table, tree, ratio, np.random.default_rng(seed))
    assert (rows == again).all()


def test_bad_observations_are_refused() -> None:
    """Negative or NaN lengths and rows that do not exist."""
    table = two_tasks(4)
    lengths = OutputLengths(table, build_prefix_tree(table), PlanConfig())
    with pytest.raises(PlanError, match="output length -1"):
        lengths.observe(np.array([0]), np.array([-1]))
    with pytest.raises(PlanError, match="output length nan"):
        lengths.observe(np.array([0]), np.array([np.nan]))
    with pytest.raises(PlanError, match="row 4 is not one of the 4 requests"):
        lengths.observe(np.array([4]), np.array([1]))


def test_a_request_that_outran_its_estimate_goes_on_for_an_eighth() -> None:
    """Never less than 8 tokens are expected."""
    assert remaining_len(np.array([100, 100, 100]), np.array([20, 98, 800])).tolist() == [80, 12.25, 100]
