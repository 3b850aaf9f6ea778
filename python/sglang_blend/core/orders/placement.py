"""What an order returns: where every request goes, in leaf order of the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.request import Side
from sglang_blend.core.workload import Workload


class Placement(NamedTuple):
    """The planned order of the leaves.

    Attributes:
        leaves: (n,) int64, leaves in the order they run.
        unit: (n,) int64, unit of each leaf, in leaf order.
        side: (n,) int8, `Side` of each leaf, in leaf order.
        reason: a sentence when the order decided something the user should know.
        instead: name of the order that this is, where another one was asked for and left; else empty.
    """

    leaves: IntArray
    unit: IntArray
    side: NDArray[np.int8]
    reason: str = ""
    instead: str = ""


Order = Callable[[Workload, PlanConfig, np.random.Generator], Placement]


def one_sided(leaves: IntArray, unit: IntArray | None = None, reason: str = "") -> Placement:
    """A placement without sides; without units every request is its own."""
    n = len(leaves)
    return Placement(
        leaves,
        np.arange(n) if unit is None else unit,
        np.full(n, Side.NONE, np.int8),
        reason,
    )
