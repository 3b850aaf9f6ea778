"""Small jobs for the simulator's tests."""

from dataclasses import replace

import numpy as np

from sglang_blend.core.request import RequestTable
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.simulate.simulated_job import SimulatedJob

COST = RooflineCost(shape=model_shape("llama-3-8b"), hardware=hardware("A100"))


def lone_cost(pool_tokens: int) -> RooflineCost:
    """The same engine with a pool of another size."""
    return replace(COST, pool_tokens=pool_tokens)


def grouped_job(num_requests: int, seed: int, *, groups: int = 8, prefix_len: int = 300) -> SimulatedJob:
    """Two thirds short answers that share long prefixes, one third long answers; shuffled."""
    rng = np.random.default_rng(seed)
    prefixes = [rng.integers(0, 5000, prefix_len).tolist() for _ in range(groups)]
    prompts, output_len = [], []
    for _ in range(num_requests):
        own = rng.integers(0, 5000, int(rng.integers(10, 80))).tolist()
        if rng.random() < 2 / 3:
            prompts.append(prefixes[int(rng.integers(groups))] + own)
            output_len.append(int(rng.integers(1, 6)))
        else:
            prompts.append(own)
            output_len.append(int(rng.integers(50, 400)))
    table = RequestTable.from_lists(prompts, max_new_tokens=400)
    return SimulatedJob.from_table(table, np.array(output_len))
