"""Numbers as people read them."""

import math

import pytest

from sglang_blend.report import units
from sglang_blend.report.charts import round_steps


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-5, "20 µs"), (0.0123, "12.3 ms"), (0.99, "990 ms"), (1, "1.0 s"), (99.9, "99.9 s"),
        (100, "100 s"), (599.4, "599 s"), (725, "12 min 05 s"), (12_000, "3 h 20 min"), (400_000, "4.6 days"),
    ],
)  # fmt: skip
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text


def test_counts_rates_and_sizes() -> None:
    assert units.count(999_999) == "999,999"
    assert units.count(39_847_667) == "39.85 M"
    assert units.rate(20_845.3) == "20,845"
    assert units.rate(3.14159) == "3.14"
    assert units.size(1_011_837) == "988 KiB"
    assert units.size(1_040_000) == "0.992 MiB"


def test_what_is_not_known_is_a_dash() -> None:
    assert units.with_unit(None, "s") == units.with_unit(math.nan, "ratio") == units.NOTHING


@pytest.mark.parametrize(("low", "high"), [(1, 128), (0.02, 300), (0.7, 1.4), (5, 9), (1e-4, 1e6)])
def test_a_logarithmic_axis_has_few_round_steps(low: float, high: float) -> None:
    steps = round_steps(low, high)
    assert steps == sorted(steps)
    assert 1 <= len(steps) <= 11
    assert low * 0.999 <= steps[0] <= steps[-1] <= high * 1.001
