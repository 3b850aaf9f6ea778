"""Values and axes: units of time, rounding, the ends of logarithmic scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sglang_blend.report.page import (
    Columns,
)


def time_unit(duration_s: float) -> tuple[str, float]:
    if duration_s < 300:
        return "s", 1.0
    return ("min", 60.0) if duration_s < 3 * 3600 else ("h", 3600.0)


def rounded(values: Any) -> list[float | None]:
    """Five significant digits, which is more than a chart can show; null where nothing is known."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in np.asarray(values).tolist()]


def closed(columns: Columns, end: float) -> Columns:
    """The last bin drawn to its end."""
    return {name: [*values, end if name == "t" else values[-1]] for name, values in columns.items()}


def density_ends(values: Sequence[float], *, middle: float | None = None) -> tuple[float, float]:
    """Ends of a scale that shows these densities, the extreme twentieth clamped; around `middle` if given."""
    known = [value for value in values if value and math.isfinite(value)]
    if not known:
        return 0.1, 10.0
    if middle:
        far = float(np.percentile([max(value / middle, middle / value) for value in known], 95))
        far = min(max(far, 2.0), 100.0)
        return middle / far, middle * far
    low, high = np.percentile(known, [2, 95])
    low, high = min(low, known[-1]), max(high, known[-1])
    return float(low) / 1.5, float(high) * 1.5
