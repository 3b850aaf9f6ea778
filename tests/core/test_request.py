"""Tables and schedules hold what they are given, refuse what cannot be planned, and survive the disk."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from core.strategies import tables
from core.toy_cost import ToyCost
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.errors import PlanError


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompts": [[1], []]}, "request 1 has prompt length 0; a prompt needs at least one token"),
        ({"prompts": [[1]], "max_new_tokens": [-3]}, "request 0 has max_new_tokens -3; a whole number"),
        ({"prompts": [[1], [2]], "max_new_tokens": [1, float("nan")]}, "request 1 has max_new_tokens nan"),
        ({"prompts": [[1]], "max_new_tokens": [2.5]}, "request 0 has max_new_tokens 2.5"),
        ({"prompts": [[1]], "max_new_tokens": [float("inf")]}, "request 0 has max_new_tokens inf"),
        ({"prompts": [[1], [4, -2]]}, "request 1 has token id -2; token ids are 0 or more"),
        ({"prompts": [[2**40]]}, "request 0 has a token id that does not fit"),
        ({"prompts": [[1], [2]], "rid": ["a", "a"]}, "rid ['a'] is there twice"),
        ({"prompts": [[1], [2]], "rid": [0.5, 1.5]}, "rid has type float64"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    """The message names the request, the value and what is allowed."""
    with pytest.raises(PlanError) as caught:
        RequestTable.from_lists(**fields)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_do_not_fit_are_refused() -> None:
    """Wrong types, shapes and offsets are told by name."""
    good = RequestTable.from_lists([[1, 2], [3]])
    columns: dict[str, Any] = {
        "token_ids": good.token_ids,
        "offsets": good.offsets,
        "max_new_tokens": good.max_new_tokens,
        "fixed_output": good.fixed_output,
        "namespace": good.namespace,
    }
    for name, bad, words in [
        ("token_ids", good.token_ids.astype(np.int64), "token_ids has type int64"),
        ("max_new_tokens", good.max_new_tokens[:1], r"max_new_tokens has shape \(1,\) for 2 requests"),
        ("offsets", np.array([0, 3, 2]), "offsets run from 0 to 2, where 0 to 3"),
        ("offsets", np.array([0, 4, 3]), "request 1 has prompt length -1"),
        ("offsets", np.empty(0, np.int64), "offsets has no entry"),
    ]:
        with pytest.raises(PlanError, match=words):
            RequestTable(**(columns | {name: bad}))


@given(table=tables())
@settings(max_examples=50, deadline=None)
def test_a_table_comes_back_from_the_disk(
    tmp_path_factory: pytest.TempPathFactory, table: RequestTable
) -> None:
    """Mapped or loaded, every column is the same; saving again gives the same bytes."""
    path = tmp_path_factory.mktemp("table") / "requests"
    table.save(path)
    first = path.read_bytes()
    for mmap in (True, False):
        again = RequestTable.load(path, mmap=mmap)
        for name in ("token_ids", "offsets", "max_new_tokens", "fixed_output", "namespace", "rid"):
            ours, theirs = getattr(table, name), getattr(again, name)
            assert (ours is None and theirs is None) or (
                ours.dtype == theirs.dtype and (ours == theirs).all()
            )
    again.save(path)
    assert path.read_bytes() == first


def test_a_schedule_comes_back_from_the_disk_and_broken_files_are_refused(tmp_path: Path) -> None:
    """Cut off, of another kind, missing, or not a permutation: a sentence each."""
    table = RequestTable.from_lists([[1, 2, 3], [1, 2, 4], [9]], max_new_tokens=[4, 5, 6])
    schedule = make_schedule(table, ToyCost(), PlanConfig(order="stationary", seed=3))
    path = tmp_path / "plan"
    schedule.save(path)
    again = Schedule.load(path)
    assert again.config == schedule.config
    assert (again.order, again.seed, again.reason) == ("stationary", 3, "")
    assert again.root_density == schedule.root_density
    assert (again.sequence == schedule.sequence).all()
    assert not path.with_name("plan.partial").exists()
    again.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-64])
    with pytest.raises(PlanError, match="has been cut off"):
        Schedule.load(path)
    with pytest.raises(PlanError, match="holds a schedule, where a request table was expected"):
        RequestTable.load(path)
    path.write_bytes(b"{}\n")
    with pytest.raises(PlanError, match="is not a schedule file"):
        Schedule.load(path)
    with pytest.raises(PlanError, match=r"cannot read the schedule file .*: No such file"):
        Schedule.load(tmp_path / "absent")
    broken = replace(schedule, rank=np.zeros(3, np.int64))
    with pytest.raises(PlanError, match="no request of the schedule has rank 1"):
        broken.check_integrity()


def test_a_table_larger_than_a_page_is_mapped_not_read(tmp_path: Path) -> None:
    """Planning can run from the mapped file."""
    tokens = np.arange(1 << 16, dtype=np.int32)
    offsets = np.arange(0, len(tokens) + 1, 256)
    n = len(offsets) - 1
    table = RequestTable(
        token_ids=tokens,
        offsets=offsets,
        max_new_tokens=np.full(n, 9),
        fixed_output=np.zeros(n, np.bool_),
        namespace=np.zeros(n, np.int32),
    )
    table.save(tmp_path / "t")
    mapped = RequestTable.load(tmp_path / "t")
    assert isinstance(mapped.token_ids, np.memmap)
    assert os.path.getsize(tmp_path / "t") >= tokens.nbytes
    plans = [make_schedule(t, ToyCost(), PlanConfig(order="dual-scan")).rank for t in (table, mapped)]
    assert (plans[0] == plans[1]).all()
