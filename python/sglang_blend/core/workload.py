"""A job as the orders see it: its tree, its expected output lengths, and the load of every leaf and node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sglang_blend.core.cost_model import CostModel, FloatArray, IntArray
from sglang_blend.core.density import Load, density_of
from sglang_blend.core.output_length import OutputEstimate
from sglang_blend.core.prefix_tree import PrefixTree
from sglang_blend.core.request import RequestTable
from sglang_blend.core.shared_reads import read_len
from sglang_blend.core.sharing import Pool
from sglang_blend.errors import PlanError


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """Arrays named `leaf_` are (n,) in leaf order, those named `node_` (m,) in preorder; times in seconds.

    Attributes:
        table: the requests.
        tree: their prefix tree.
        lengths: expected output lengths, in row order.
        cost: the machine; None when only orders without a cost model are asked for.
    """

    table: RequestTable
    tree: PrefixTree
    lengths: OutputEstimate
    cost: CostModel | None

    @cached_property
    def leaf_output_len(self) -> IntArray:
        """(n,) int64, expected output tokens."""
        return self.lengths.est_output_len[self.tree.sequence]

    @cached_property
    def leaf_token_steps(self) -> FloatArray:
        """(n,) float64, KV tokens held times decode steps: `p * d + d^2 / 2` of the paper's Mem(r)."""
        prompt, output = self.tree.prompt_len.astype(np.float64), self.leaf_output_len.astype(np.float64)
        return prompt * output + output * output / 2

    @cached_property
    def leaf_full_compute_s(self) -> FloatArray:
        """(n,) float64, compute time with nothing shared."""
        return self._cost.compute_s(self.tree.prompt_len, self.leaf_output_len)

    @cached_property
    def leaf_memory_s(self) -> FloatArray:
        """(n,) float64, time of the KV reads."""
        return self.memory_s_of_leaves(least_output_len=0)

    @cached_property
    def leaf_saved_s(self) -> FloatArray:
        """(n,) float64, compute time saved when the leaf before has left its prefix in the cache."""
        return self.prefix_compute_s(self.tree.lcp)

    @cached_property
    def leaf_compute_s(self) -> FloatArray:
        """(n,) float64, compute time with the cost of every shared segment spread over its requests.

        The paper's density of a request counts the whole prompt. Beside subtrees, whose density counts shared
        prefixes once, that would make a request with a long shared prefix look compute-intensive though the
        prefix is free; so orders compare leaves by this share. Its sum over the job is the job's compute
        time.
        """
        tree = self.tree
        depth_s = self.prefix_compute_s(tree.node_depth)
        segment_s = depth_s - depth_s[tree.node_parent]
        others = 1.0 - 1.0 / np.maximum(tree.node_num_leaves, 1)
        return self.leaf_full_compute_s - tree.sum_to_root(segment_s * others)[tree.leaf_parent]

    @cached_property
    def leaf_density(self) -> FloatArray:
        """(n,) float64, density of each leaf by `leaf_compute_s`."""
        return density_of(self.leaf_compute_s, self.leaf_memory_s)

    @cached_property
    def leaf_work_s(self) -> FloatArray:
        """(n,) float64, compute plus memory time."""
        return self.leaf_compute_s + self.leaf_memory_s

    @cached_property
    def node_load(self) -> Load:
        """(m,) load of each subtree, its prefix from the root computed once."""
        saved = self.tree.subtree_saving(self.leaf_saved_s)
        full = self.tree.subtree_sum(self.leaf_full_compute_s)
        return Load(full - saved, saved, self.tree.subtree_sum(self.leaf_memory_s))

    @cached_property
    def total(self) -> Load:
        """Load of the whole job, scalars; an empty job has none."""
        if self.tree.n == 0:
            return Load(0.0, 0.0, 0.0)
        return Load(*(float(column[0]) for column in self.node_load))

    @property
    def root_density(self) -> float:
        """Density of the whole job with full sharing; infinite when there is no output."""
        return float(self.total.density)

    def prefix_compute_s(self, prefix_len: IntArray) -> FloatArray:
        """Compute time of the first `prefix_len` tokens of a prompt, seconds; same shape."""
        return self._cost.extend_compute_s(np.zeros_like(prefix_len), prefix_len)

    def memory_s_of_leaves(self, *, least_output_len: int) -> FloatArray:
        """(n,) float64, time of the KV reads when every output has at least this many tokens."""
        return self._cost.memory_s(self.leaf_read_len, np.maximum(self.leaf_output_len, least_output_len))

    @cached_property
    def leaf_read_len(self) -> FloatArray:
        """(n,) float64, prompt tokens that each leaf pays for in a decode step."""
        tree = self.tree
        return read_len(
            self._cost,
            prompt_len=tree.prompt_len,
            output_len=self.leaf_output_len,
            leaf_node=tree.leaf_parent,
            node_parent=tree.node_parent,
            node_depth=tree.node_depth,
        )

    @property
    def kv_pool_tokens(self) -> int:
        """Tokens of the KV pool."""
        return self._cost.kv_pool_tokens

    @property
    def pool(self) -> Pool | None:
        """Where the paths of an order have to fit; None without a cost model."""
        return None if self.cost is None else Pool(self.cost.kv_pool_tokens, self.lengths.est_output_len)

    @property
    def _cost(self) -> CostModel:
        if self.cost is None:
            raise PlanError("this order needs a cost model; name a model and a hardware, or take dfs")
        return self.cost
