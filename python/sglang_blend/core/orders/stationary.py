"""The stationary blend: a running batch that is at all times a sample of the whole job.

Such a batch has the job's density by construction, without two pointers, if units interleave finely enough
and long outputs start early. Units are the maximal subtrees with at most 1% of the job's work (larger ones
where the sharing budget forbids to break them). Each gets a tail-aware random key,

    key(unit) = U(0, 1) * max(0.02, min over its requests of 1 - min(d, 0.98 * S) / S)

where S is the number of decode steps that the job is expected to take at 85% occupancy of the KV pool. A
request that needs all of S gets a key near 0 and starts at once. The order is by key, depth-first inside a
unit; the scheduler paces it with the token budget of `pacing.py`.

Source: the simulation study of this project ("TAR"); not in the paper.
"""

from __future__ import annotations

import numpy as np

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.orders.placement import Placement, one_sided
from sglang_blend.core.orders.within_loss import within_loss
from sglang_blend.core.split import cut_by_work
from sglang_blend.core.workload import Workload

_LEAST_FACTOR = 0.02


def stationary(workload: Workload, config: PlanConfig, rng: np.random.Generator) -> Placement:
    """Plan the stationary blend; keeps at least `1 - sharing_loss` of the possible sharing."""
    tree = workload.tree
    uniform = rng.random(tree.n)
    factor = tail_factor(workload.leaf_output_len, expected_steps(workload, config))

    def place(budget: float) -> Placement:
        units = cut_by_work(workload, config.unit_work_of_part_ratio, budget)
        first_leaf = np.full(units.num_units, tree.n, np.int64)
        np.minimum.at(first_leaf, units.of_leaf, np.arange(tree.n))
        lowest = np.ones(units.num_units)
        np.minimum.at(lowest, units.of_leaf, factor)
        key = uniform[first_leaf] * lowest
        rank = np.empty(units.num_units, np.int64)
        rank[np.lexsort((first_leaf, key))] = np.arange(units.num_units)
        return one_sided(np.argsort(rank[units.of_leaf], kind="stable"), units.of_leaf)

    return within_loss(workload, config, place)


def expected_steps(workload: Workload, config: PlanConfig) -> float:
    """S: decode steps of the job when the KV pool is filled to `occupancy_ratio` on average, at least 1."""
    filled_tokens = config.occupancy_ratio * workload.kv_pool_tokens
    return max(float(workload.leaf_token_steps.sum()) / filled_tokens, 1.0)


def tail_factor(output_len: IntArray, num_steps: float) -> FloatArray:
    """(n,) float64, 1 for outputs that end at once, falling to 0.02 for those that last the whole job."""
    return np.maximum(1.0 - np.minimum(output_len, 0.98 * num_steps) / num_steps, _LEAST_FACTOR)
