"""What no order can beat: the paper's optimum, and the same with what a real step also pays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sglang_blend.core.cost_model import IntArray
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.segments import SegmentTree


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lower bounds of a job's makespan, seconds.

    Attributes:
        compute_s: compute with every shared segment computed once.
        memory_s: KV reads; where attention shares them, with as many readers together as the pool holds.
        weight_s: weight reads of the fewest decode steps that the pool allows.
        interference: share of the shorter side that overlap loses.
    """

    compute_s: float
    memory_s: float
    weight_s: float
    interference: float

    def on_replicas(self, num_replicas: int) -> Bounds:
        """The same work shared by so many engines."""
        return replace(
            self,
            compute_s=self.compute_s / num_replicas,
            memory_s=self.memory_s / num_replicas,
            weight_s=self.weight_s / num_replicas,
        )

    @property
    def optimum_s(self) -> float:
        """max(compute, KV reads): the paper's T_o (section 3.3)."""
        return max(self.compute_s, self.memory_s)

    @property
    def practical_s(self) -> float:
        """The optimum of an overlapping engine: weights share the bandwidth with KV, and overlap
        interferes.
        """
        memory_s = self.memory_s + self.weight_s
        return max(self.compute_s, memory_s) + self.interference * min(self.compute_s, memory_s)

    @property
    def sequential_s(self) -> float:
        """compute + KV reads: no engine that runs operators one after the other is faster."""
        return self.compute_s + self.memory_s

    @property
    def density(self) -> float:
        """Compute density of the whole job, with full sharing: (1 - s) T_comp / T_mem."""
        return self.compute_s / self.memory_s if self.memory_s else float("inf")


def bounds_of(tree: SegmentTree, output_len: IntArray, cost: RooflineCost, interference: float) -> Bounds:
    """Sums a job's bounds from its true output lengths.

    The fewest decode steps are token-steps over the pool. A shared segment counts once for each of its
    readers there, which makes the weight bound slightly too high where long outputs share long prefixes.
    """
    output = output_len.astype(np.float64)
    token_steps = float((tree.prompt_len * output + output * output / 2.0).sum())
    longest = float(output.max()) if output.size else 0.0
    steps = max(token_steps / cost.kv_pool_tokens, longest)
    mean_batch = float(output.sum()) / steps if steps else 0.0
    return Bounds(
        compute_s=tree.prefill_compute_s(cost) + float(output.sum()) * cost.decode_token_s,
        memory_s=float(cost.memory_s(tree.read_len(cost, output_len), output_len).sum()),
        weight_s=steps * cost.weight_s(mean_batch),
        interference=interference,
    )
