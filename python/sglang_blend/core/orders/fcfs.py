"""First come, first served: the order of the file. A baseline."""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.placement import Placement, one_sided
from sglang_blend.core.workload import Workload


def fcfs(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Requests in input order."""
    return one_sided(workload.tree.leaf_of_row.copy())
