"""The division of memory between the two sides, and its edge cases."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.core.memory_split import memory_split

densities = st.one_of(st.floats(0, 1e6), st.just(math.inf))


def test_worked_example_of_the_paper() -> None:
    """60 GB of KV memory, densities 3.73 and 0.096, root 1.27: 19.38 and 40.62 GB exactly.

    The paper prints 19.3 and 40.7 (section 5.3, figure 6); its own formula gives 19.38 and 40.62.
    """
    left, right = memory_split(3.73, 0.096, 1.27, 60.0)
    assert left == pytest.approx(19.38, abs=0.005)
    assert right == pytest.approx(40.62, abs=0.005)
    assert (left, right) == pytest.approx((19.3, 40.7), abs=0.1)
    assert left * 3.73 + right * 0.096 == pytest.approx(60 * 1.27)


@pytest.mark.slow
@given(left=densities, right=densities, root=densities, mem=st.floats(1, 1e9))
@settings(max_examples=500, deadline=None)
def test_parts_are_never_negative_and_make_up_the_memory(
    left: float, right: float, root: float, mem: float
) -> None:
    """For any three densities, infinite ones too; between the ends the mix has the root's density."""
    split = memory_split(left, right, root, mem)
    assert split.mem_left >= 0
    assert split.mem_right >= 0
    assert split.mem_left + split.mem_right == pytest.approx(mem)
    if math.isfinite(left) and right < root < left and left - right > 1e-6 * left:
        mixed = split.mem_left * left + split.mem_right * right
        assert mixed == pytest.approx(mem * root, rel=1e-6)


@pytest.mark.parametrize(
    ("left", "right", "root", "expected"),
    [
        (2.0, 2.0, 2.0, 50),  # equal: any division is right
        (2.0, 1.0, 3.0, 100),  # root above both: the denser side is nearer
        (2.0, 1.0, 0.5, 0),  # root below both
        (math.inf, 0.5, 1.0, 0),  # no output on the left: no KV time at all
        (math.inf, 0.5, math.inf, 100),
        (math.inf, math.inf, math.inf, 50),
        (1.0, math.inf, 2.0, 0),  # ends swapped by shuffled classes
        (0.5, 2.0, 1.0, 200 / 3),
    ],
)
def test_edge_cases_the_paper_leaves_open(left: float, right: float, root: float, expected: float) -> None:
    """Each decision of the module's docstring, by example."""
    assert memory_split(left, right, root, 100.0).mem_left == pytest.approx(expected)
