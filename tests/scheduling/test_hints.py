"""What a request carries from the plan to the scheduler."""

import math
from typing import Any

import pytest

from sglang_blend.core.request import Side
from sglang_blend.scheduling.hints import HINTS_KEY, HintError, Hints, read_hints, with_hints


@pytest.mark.parametrize("density", [0.5, math.inf])
def test_hints_survive_the_way_through_json(density: float) -> None:
    hints = Hints(7, Side.RIGHT, 20, 40, 3, density, 1.25)
    assert read_hints({"other": 1, HINTS_KEY: hints.to_json()}) == hints


def test_the_plan_wins_over_hints_that_a_request_brought() -> None:
    """A rank means something only beside the others of its plan; what else is in there stays."""
    brought: dict[str, Any] = {"other": 1, HINTS_KEY: Hints(7, est_output_len=3).to_json()}
    planned = Hints(2, Side.RIGHT, 20, 40, 5)
    carried = with_hints(brought, planned.to_json())
    assert carried is not None
    assert read_hints(carried) == planned
    assert carried["other"] == 1
    assert brought[HINTS_KEY]["rank"] == 7, "the request itself is as it was"
    assert read_hints(with_hints(None, planned.to_json())) == planned
    assert with_hints(brought, None) == brought, "no plan, no word against them"


@pytest.mark.parametrize("params", [None, {}, {"temperature": 1}, [1, 2], "blend"])
def test_a_request_without_hints_has_none(params: object) -> None:
    assert read_hints(params) is None


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("rank", "first", "a number"),
        ("rank", -1, "a whole number from 0"),
        ("rank", 1.5, "a whole number"),
        ("rank", 10**300, "a whole number"),
        ("rank", math.nan, "a number"),
        ("rank", True, "a number"),
        ("side", 3, "a whole number from 0 to 2"),
        ("est_output_len", [5], "a number"),
        ("density", -1, "0 or more"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_with_what_it_may_be(
    field: str, value: Any, needed: str
) -> None:
    with pytest.raises(HintError, match=field) as e:
        read_hints({HINTS_KEY: Hints(1).to_json() | {field: value}})
    assert needed in str(e.value)


def test_hints_that_are_no_object_or_have_no_rank_are_refused() -> None:
    for given in (5, {}, {"side": 1}):
        with pytest.raises(HintError):
            read_hints({HINTS_KEY: given})


def test_estimates_out_of_range_are_brought_into_it() -> None:
    given = {"rank": 1, "est_output_len": 0, "admission_output_len": 10**9}
    hints = read_hints({HINTS_KEY: given})
    assert hints is not None
    assert (hints.est_output_len, hints.admission_output_len) == (1, 10**7)
