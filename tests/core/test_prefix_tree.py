"""The tree on arrays is the tree anyone would build with dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.strategies import tables
from oracles.naive_prefix_tree import NaivePrefixTree
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable, Side
from sglang_blend.core.sharing import sharing_kept
from sglang_blend.errors import PlanError


@pytest.mark.slow
@given(table=tables(), page_size=st.sampled_from([1, 1, 2, 3, 8]))
@settings(max_examples=300, deadline=None)
def test_nodes_and_unique_tokens_equal_the_obvious_tree(table: RequestTable, page_size: int) -> None:
    """Same tokens, same branching prefixes, same requests below each of them, for every page size."""
    tree, naive = build_prefix_tree(table, page_size=page_size), NaivePrefixTree(table, page_size)
    tree.check_integrity()
    assert tree.num_unique_tokens == naive.num_unique_tokens
    nodes = {
        (int(depth), frozenset(tree.sequence[start:end].tolist()))
        for depth, start, end in zip(tree.node_depth, tree.node_start, tree.node_end, strict=True)
    }
    assert nodes == naive.nodes()
    assert len(nodes) == tree.num_nodes


@pytest.mark.slow
@given(table=tables())
@settings(max_examples=200, deadline=None)
def test_leaves_are_sorted_by_namespace_tokens_and_rid(table: RequestTable) -> None:
    """Depth-first order is the sorted order, equal prompts by rid."""
    tree = build_prefix_tree(table)
    rid = np.arange(0) if table.rid is None else table.rid  # an empty table has none
    keys = [(int(table.namespace[r]), table.prompt(r).tolist(), int(rid[r])) for r in range(table.n)]
    assert tree.sequence.tolist() == sorted(range(table.n), key=keys.__getitem__)


@pytest.mark.slow
@given(table=tables(), page_size=st.sampled_from([1, 4]), data=st.data())
@settings(max_examples=200, deadline=None)
def test_sharing_kept_equals_the_obvious_cache_of_the_current_path(
    table: RequestTable, page_size: int, data: st.DataObject
) -> None:
    """Any order, with any mixture of sides, computes what the token-by-token cache computes."""
    tree, naive = build_prefix_tree(table, page_size=page_size), NaivePrefixTree(table, page_size)
    sequence = np.array(data.draw(st.permutations(range(table.n))), np.int64)
    side = np.array(
        data.draw(st.lists(st.sampled_from(list(Side)), min_size=table.n, max_size=table.n)), np.int8
    )
    computed = naive.num_computed_tokens(sequence.tolist(), side)
    wasted = computed - tree.num_unique_tokens
    expected = 1 - wasted / tree.num_shared_tokens if tree.num_shared_tokens else 1.0
    assert sharing_kept(tree, sequence, side) == pytest.approx(expected)
    assert sharing_kept(tree, tree.sequence) == 1.0


@pytest.mark.slow
@given(table=tables(min_requests=1))
@settings(max_examples=100, deadline=None)
def test_subtree_sums_equal_sums_over_the_requests_below(table: RequestTable) -> None:
    """A node's sum and saving are those of its leaves taken one by one."""
    tree = build_prefix_tree(table)
    saving = tree.subtree_saving(tree.lcp.astype(np.float64))
    sums = tree.subtree_sum(tree.prompt_len)
    for node in range(tree.num_nodes):
        start, end = int(tree.node_start[node]), int(tree.node_end[node])
        assert sums[node] == tree.prompt_len[start:end].sum()
        assert saving[node] == tree.lcp[start + 1 : end].sum()


@pytest.mark.slow
@given(table=tables(min_requests=1), data=st.data())
@settings(max_examples=100, deadline=None)
def test_jumps_to_ancestors_equal_climbing_one_by_one(table: RequestTable, data: st.DataObject) -> None:
    """`nearest_marked` and `sum_to_root` do what a loop over parents does."""
    tree = build_prefix_tree(table)
    m = tree.num_nodes
    marked = np.array(data.draw(st.lists(st.booleans(), min_size=m, max_size=m)), np.bool_)
    value = np.array(data.draw(st.lists(st.integers(0, 9), min_size=m, max_size=m)), np.int64)
    nearest, total = tree.nearest_marked(marked), tree.sum_to_root(value)
    for node in range(m):
        path = [node]
        while path[-1]:
            path.append(int(tree.node_parent[path[-1]]))
        assert nearest[node] == next((v for v in path if marked[v]), 0)
        assert total[node] == sum(int(value[v]) for v in path if v)


def test_prompts_of_100k_tokens_and_namespaces() -> None:
    """Two long equal prompts share everything, the same prompt in another namespace nothing."""
    long = np.random.default_rng(0).integers(0, 50_000, 100_000).tolist()
    table = RequestTable.from_lists([long, long, [*long[:-1], 7], long], namespace=[0, 0, 0, 1])
    tree = build_prefix_tree(table)
    assert tree.num_unique_tokens == 100_000 + 1 + 100_000
    assert build_prefix_tree(table, page_size=64).num_shared_tokens == 2 * (100_000 // 64 * 64)


@pytest.mark.slow
def test_deep_chain_of_growing_conversations_is_walked_without_recursion() -> None:
    """Every prompt extends the one before: 3,000 nested nodes."""
    table = RequestTable.from_lists([[7] * length for length in range(1, 3001)])
    tree = build_prefix_tree(table)
    tree.check_integrity()
    assert tree.num_unique_tokens == 3000
    # The longest prompt is the only one that ends below the last node.
    assert tree.num_nodes == 3000
    assert tree.sum_to_root(np.ones(tree.num_nodes, np.int64)).max() == 2999


@pytest.mark.parametrize("prompts", [[], [[5]], [[1, 2]] * 4, [[i, 9] for i in range(6)]])
def test_empty_single_identical_and_distinct_jobs(prompts: list[list[int]]) -> None:
    """The corners have a tree, and their sharing is what can be counted by hand."""
    tree = build_prefix_tree(RequestTable.from_lists(prompts))
    tree.check_integrity()
    assert tree.num_unique_tokens == sum(
        len(set(map(tuple, prompts))) and len(p) for p in set(map(tuple, prompts))
    )


def test_a_page_size_of_zero_is_refused() -> None:
    """The message names the value and what is allowed."""
    with pytest.raises(PlanError, match="page_size is 0; 1 or more"):
        build_prefix_tree(RequestTable.from_lists([[1]]), page_size=0)
