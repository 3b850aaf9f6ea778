"""No planned order takes more than 1% longer than dfs on deep trees of long prefixes.

Here one small tree of each family; `never_loses.py` has them all.
"""

import pytest

from sglang_blend.core.prefix_tree import build_prefix_tree
from simulate.deep_trees import FAMILIES, TreeSpec, make_tree, tree_specs
from simulate.never_loses import ORDERS, compare_tree

# Small ones, known and sampled, with paths of a tenth to eight tenths of the pool.
NUMBERS = (5, 6, 7, 8, 4)


@pytest.mark.parametrize("spec", [tree_specs(10)[number] for number in NUMBERS], ids=lambda spec: spec.name)
def test_no_planned_order_is_behind_dfs(spec: TreeSpec) -> None:
    rows = list(compare_tree(spec))
    assert {row.order for row in rows} == set(ORDERS)
    for row in rows:
        assert row.ratio <= 1.01, row
        assert row.ran == row.order or row.reason, "who was left is told"


def test_the_families_are_what_they_are_called() -> None:
    """Two hundred jobs cover depths, paths from short to most of the pool, and lengths known and sampled."""
    specs = tree_specs(200)
    assert {spec.family for spec in specs} == set(FAMILIES)
    assert {spec.known for spec in specs} == {True, False}
    assert max(spec.path_ratio for spec in specs) >= 0.8
    assert tree_specs(3) == specs[:3]
    deep = [spec for spec in specs[:25] if spec.family == "turns" and spec.depth >= 8]
    for spec in deep[:2]:
        table, output_len = make_tree(spec)
        tree = build_prefix_tree(table)
        assert tree.num_nodes > table.n / 2
        assert tree.sharing_possible > 0.4
        assert output_len.min() >= 1
        assert (table.prompt_len + output_len < spec.pool_tokens).all()
