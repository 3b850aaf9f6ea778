"""A seeded shuffle: what a file without any order looks like. A baseline.

The paper calls it NanoFlow-Balance when it is run on an overlapping engine (section 6.2).
"""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.placement import Placement, one_sided
from sglang_blend.core.workload import Workload


def random(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Requests in random order; it does not depend on the order of the file, only on rids and the seed."""
    return one_sided(rng.permutation(workload.tree.n))
