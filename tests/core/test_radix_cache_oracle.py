"""SGLang's own radix cache agrees on what prompts share. Needs sglang."""

import warnings
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.shared_files import read_text_file
from core.strategies import tables
from sglang_blend.core.prefix_tree import build_prefix_tree
from sglang_blend.core.request import RequestTable

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def sglang() -> Any:
    """The modules of the radix cache; importing them takes a while, and warns about missing accelerators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = pytest.importorskip("sglang.srt.mem_cache.radix_cache", reason="sglang is not installed")
        params = pytest.importorskip("sglang.srt.mem_cache.base_prefix_cache")
    return cache, params


def insert_all(sglang: Any, table: RequestTable, rows: list[int], page_size: int) -> tuple[int, int]:
    """Insert prompts in some order; tokens already there when each came, and tokens held at the end."""
    cache, params = sglang
    tree = cache.RadixCache.create_simulated(page_size=page_size)
    found = 0
    for row in rows:
        key = cache.RadixKey(
            token_ids=array("q", table.prompt(row).tolist()), extra_key=str(table.namespace[row])
        )
        found += tree.insert(params.InsertParams(key=key)).prefix_len
    return found, tree.total_size()


@given(table=tables(), page_size=st.sampled_from([1, 2, 4, 16]), data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_cache_holds_the_tokens_of_the_tree(
    sglang: Any, table: RequestTable, page_size: int, data: st.DataObject
) -> None:
    """In any order of insertion SGLang finds the tokens that our tree shares, by page and namespace."""
    tree = build_prefix_tree(table, page_size=page_size)
    rows = data.draw(st.permutations(range(table.n)))
    found, held = insert_all(sglang, table, list(rows), page_size)
    assert found == tree.num_shared_tokens
    rests = int((table.prompt_len % page_size).sum())
    assert held == tree.num_unique_tokens - rests


@pytest.mark.parametrize("page_size", [1, 64])
def test_the_cache_and_the_tree_agree_on_a_real_file(sglang: Any, page_size: int) -> None:
    """Real prompts in file order."""
    table = read_text_file("mixed_small.jsonl")
    tree = build_prefix_tree(table, page_size=page_size)
    found, held = insert_all(sglang, table, list(range(table.n)), page_size)
    assert found == tree.num_shared_tokens
    assert held + int((table.prompt_len % page_size).sum()) == tree.num_unique_tokens
    assert np.isclose(tree.sharing_possible, found / table.num_prompt_tokens)
