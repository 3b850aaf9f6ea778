"""The hints of every request of a planned job."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.density import density_of
from sglang_blend.core.output_length import OutputEstimate
from sglang_blend.core.prefix_tree import prefix_sum
from sglang_blend.core.request import Schedule, Side
from sglang_blend.core.workload import Workload
from sglang_blend.scheduling.hints import Hints


class PlannedHints:
    """Makes the hints of a row: its place in the plan, lengths and densities by the newest estimates."""

    def __init__(self, workload: Workload, schedule: Schedule) -> None:
        self._workload, self._schedule = workload, schedule

    def renewed(self, lengths: OutputEstimate) -> PlannedHints:
        """The same plan with other expected lengths; counts the densities at once."""
        hints = PlannedHints(replace(self._workload, lengths=lengths), self._schedule)
        assert len(hints.density) == len(hints.root_density) == len(hints.shared_len)
        return hints

    def of(self, row: int) -> Hints:
        """The hints of one request."""
        lengths = self._workload.lengths
        observed = lengths.num_observed
        exact = bool(self._workload.table.fixed_output[row])
        return Hints(
            rank=int(self._schedule.rank[row]),
            side=Side(int(self._schedule.side[row])),
            est_output_len=max(int(lengths.est_output_len[row]), 1),
            admission_output_len=max(int(lengths.admission_output_len[row]), 1),
            # A fixed length is as good as observed.
            num_observed=max(observed, 1) if exact else observed,
            density=float(self.density[row]),
            root_density=float(self.root_density[row]),
            shared_len=int(self.shared_len[row]),
        )

    @cached_property
    def density(self) -> FloatArray:
        """(n,) float64, compute density of the unit of each row; infinite without a cost model."""
        if self._workload.cost is None:
            return np.full(self._schedule.n, np.inf)
        leaf = self._workload.tree.leaf_of_row
        unit = self._schedule.unit
        compute = np.bincount(unit, self._workload.leaf_compute_s[leaf])
        memory = np.bincount(unit, self._workload.leaf_memory_s[leaf])
        return density_of(compute, memory)[unit]

    @cached_property
    def shared_len(self) -> IntArray:
        """(n,) int64, tokens of each prompt that another request begins with too."""
        tree = self._workload.tree
        return tree.node_depth[tree.leaf_parent][tree.leaf_of_row]

    @cached_property
    def root_density(self) -> FloatArray:
        """(n,) float64, density of each row and all later ones; infinite without a cost model."""
        if self._workload.cost is None:
            return np.full(self._schedule.n, np.inf)
        leaf = self._workload.tree.leaf_of_row[self._schedule.sequence]
        compute = prefix_sum(self._workload.leaf_compute_s[leaf])
        memory = prefix_sum(self._workload.leaf_memory_s[leaf])
        rest = density_of(compute[-1] - compute[:-1], memory[-1] - memory[:-1])
        return rest[self._schedule.rank]
