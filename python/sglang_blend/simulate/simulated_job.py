"""What goes into a simulation and what comes out: `SimulatedJob` and `Simulation`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.prefix_tree import PrefixTree, build_prefix_tree
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.cost.bounds import Bounds
from sglang_blend.cost.segments import SegmentTree, segments_of
from sglang_blend.simulate.timeline import Timeline


class RequestLists(NamedTuple):
    """Columns of a job as lists, which a step loop reads faster; made once however many engines read them."""

    prompt_len: list[int]
    private_len: list[int]
    output_len: list[int]
    cap: list[int]


@dataclass(frozen=True, kw_only=True)
class SimulatedJob:
    """A job to simulate.

    Attributes:
        tree: shared prompt segments.
        output_len: (n,) int64, true output lengths, tokens.
        est_output_len: (n,) float64, output lengths as expected.
        admission_output_len: (n,) float64, those to reserve memory by.
        max_new_tokens: (n,) int64, caps.
        is_fixed_len: (n,) bool, outputs that are as long as their cap, whatever the model says.
    """

    tree: SegmentTree
    output_len: IntArray
    est_output_len: FloatArray
    admission_output_len: FloatArray
    max_new_tokens: IntArray
    is_fixed_len: NDArray[np.bool_]

    @classmethod
    def from_table(
        cls,
        table: RequestTable,
        output_len: IntArray,
        est_output_len: IntArray | FloatArray | None = None,
        *,
        page_size: int = 1,
        tree: PrefixTree | None = None,
    ) -> SimulatedJob:
        """Builds the tree of a table, or takes the one that is there; without estimates the true lengths
        are known.
        """
        est = np.asarray(output_len if est_output_len is None else est_output_len, dtype=np.float64)
        return cls(
            tree=segments_of(build_prefix_tree(table, page_size=page_size) if tree is None else tree),
            output_len=output_len,
            est_output_len=est,
            admission_output_len=est,
            max_new_tokens=table.max_new_tokens,
            is_fixed_len=table.fixed_output,
        )

    def believing(self, schedule: Schedule) -> SimulatedJob:
        """The same job with the output lengths that a schedule expects."""
        return replace(
            self,
            est_output_len=schedule.est_output_len.astype(np.float64),
            admission_output_len=schedule.admission_output_len.astype(np.float64),
        )

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.output_len)

    @cached_property
    def requests(self) -> RequestLists:
        """The columns as lists; nobody writes into them."""
        return RequestLists(
            prompt_len=self.tree.prompt_len.tolist(),
            private_len=self.tree.private_len.tolist(),
            output_len=self.output_len.tolist(),
            cap=np.maximum(self.max_new_tokens, self.output_len).tolist(),
        )


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What one order takes in one simulated engine.

    Attributes:
        makespan_s: first step to last token.
        bounds: optimum, practical optimum and sequential floor of the job.
        computed_tokens: prompt tokens computed on first admission.
        recomputed_tokens: prompt and output tokens computed again after retraction.
        output_tokens: tokens generated.
        sharing_kept: tokens saved by the cache over the tokens that full sharing saves; 1.0 where
            nothing is shared.
        retractions: requests sent back to the queue.
        num_steps: engine steps.
        tail_s: seconds after the last request was admitted.
        mean_kv_occupancy: admitted requests' tokens over the pool, mean over time.
        timeline: None unless asked for.
    """

    makespan_s: float
    bounds: Bounds
    computed_tokens: int
    recomputed_tokens: int
    output_tokens: int
    sharing_kept: float
    retractions: int
    num_steps: int
    tail_s: float
    mean_kv_occupancy: float
    timeline: Timeline | None = None

    @property
    def optimum_fraction(self) -> float:
        """max(compute, KV reads) over the makespan: the paper's share of the optimum."""
        return self.bounds.optimum_s / self.makespan_s if self.makespan_s else 1.0

    @property
    def practical_fraction(self) -> float:
        """The same against the bound with weight reads and interference."""
        return self.bounds.practical_s / self.makespan_s if self.makespan_s else 1.0
