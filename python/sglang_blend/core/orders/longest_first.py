"""Longest expected output first: no long tail, no regard for prefixes. A baseline."""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.placement import Placement, one_sided
from sglang_blend.core.workload import Workload


def longest_first(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Requests by falling expected output length, equal ones in tree order. Needs no cost model."""
    return one_sided(np.argsort(-workload.leaf_output_len, kind="stable"))
