"""Orders that blend nothing, to measure the others against. None needs a cost model."""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders.placement import Placement, one_sided
from sglang_blend.core.workload import Workload


def fcfs(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """First come, first served: requests as they stand in the file."""
    return one_sided(workload.tree.leaf_of_row.copy())


def random(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """A seeded shuffle; it does not depend on the order of the file, only on rids and the seed.

    The paper calls it NanoFlow-Balance when it is run on an overlapping engine (section 6.2).
    """
    return one_sided(rng.permutation(workload.tree.n))


def dfs(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Depth-first over the prefix tree, by namespace, tokens and rid: every shared prefix is computed once.

    One unit, the whole tree: nothing is blended.
    """
    n = workload.tree.n
    return one_sided(np.arange(n), unit=np.zeros(n, np.int64))


def not_blended(workload: Workload, why: str) -> Placement:
    """The order of `dfs` for an order that could blend and does not; `why` is a sentence without a start."""
    n = workload.tree.n
    in_place = one_sided(np.arange(n), unit=np.zeros(n, np.int64))
    return in_place._replace(reason=f"dfs, not blended: {why}", instead="dfs")


def longest_first(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Requests by falling expected output length, equal ones in tree order; no regard for prefixes."""
    return one_sided(np.argsort(-workload.leaf_output_len, kind="stable"))
