"""Depth-first over the prefix tree: every shared prefix is computed once, nothing is blended. A baseline."""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.placement import Placement, one_sided
from sglang_blend.core.workload import Workload


def dfs(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Requests in order of namespace, tokens and rid; one unit, the whole tree. Needs no cost model."""
    n = workload.tree.n
    return one_sided(np.arange(n), unit=np.zeros(n, np.int64))
