"""Tables and schedules hold what they are given, and refuse what cannot be planned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.toy_cost import ToyCost
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule
from sglang_blend.core.request import RequestTable
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


def test_a_schedule_that_is_no_permutation_is_refused() -> None:
    table = RequestTable.from_lists([[1, 2, 3], [1, 2, 4], [9]], max_new_tokens=[4, 5, 6])
    schedule = make_schedule(table, ToyCost(), PlanConfig(order="stationary", seed=3))
    broken = replace(schedule, rank=np.zeros(3, np.int64))
    with pytest.raises(PlanError, match="no request of the schedule has rank 1"):
        broken.check_integrity()


def test_token_ids_may_be_mapped(tmp_path: Path) -> None:
    """Planning can run from the mapped file."""
    tokens = np.arange(1 << 16, dtype=np.int32)
    tokens.tofile(tmp_path / "tokens")
    offsets = np.arange(0, len(tokens) + 1, 256)
    n = len(offsets) - 1
    ranks = []
    for token_ids in (tokens, np.memmap(tmp_path / "tokens", np.int32, mode="r")):
        table = RequestTable(
            token_ids=token_ids,
            offsets=offsets,
            max_new_tokens=np.full(n, 9),
            fixed_output=np.zeros(n, np.bool_),
            namespace=np.zeros(n, np.int32),
        )
        ranks.append(make_schedule(table, ToyCost(), PlanConfig(order="stationary")).rank)
    assert (ranks[0] == ranks[1]).all()
