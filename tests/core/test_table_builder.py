"""Requests added one by one are the table made of all of them, with token ids in memory or in a file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_blend.core import RequestTable
from sglang_blend.core.table_builder import TableBuilder
from sglang_blend.errors import PlanError
from sglang_blend.request import Prepared

requests = st.builds(
    Prepared,
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6),
    st.integers(0, 1000),
    st.booleans(),
    st.sampled_from(["", "adapter\0", "\0key"]),
)


@given(st.lists(requests, max_size=8), st.booleans())
def test_a_table_has_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, some: list[Prepared], in_file: bool
) -> None:
    names = list(dict.fromkeys(prepared.namespace for prepared in some))
    expected = RequestTable.from_lists(
        [list(prepared.token_ids) for prepared in some],
        max_new_tokens=[prepared.max_new_tokens for prepared in some],
        fixed_output=[prepared.fixed_output for prepared in some],
        namespace=[names.index(prepared.namespace) for prepared in some],
    )
    with (tmp_path_factory.mktemp("tokens") / "ids").open("w+b") as file:
        builder = TableBuilder(file if in_file else None).extend(some)
        assert len(builder) == len(some)
        table = builder.table()
        for name in ("token_ids", "offsets", "max_new_tokens", "fixed_output", "namespace"):
            found, wanted = getattr(table, name), getattr(expected, name)
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)


def test_an_empty_prompt_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="at least one token"):
        TableBuilder().extend([Prepared([], 1, False, "")]).table()
