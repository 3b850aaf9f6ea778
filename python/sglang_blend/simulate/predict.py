"""Predicts the makespan of a schedule with the simulator, for `auto` and for the plan's report.

`predictor = MakespanPredictor(table, cost, engine)`, then `predictor(schedule)` gives seconds. Predictions
are simulated.

A job of more than `max_requests` is not simulated whole. Whole subtrees of at most a 400th of the requests
are drawn at random until the sample is full, once with all of the sample and once with half of it; the
requests keep their planned order. Filling and draining the engine costs the same in both, so the makespan
of the whole job is extended from the two along the work (compute plus memory seconds): T = T_s + (W - W_s)
(T_s - T_h) / (W_s - W_h). That holds only where the sample fills the pool many times over, so it grows
until its decode takes eight lives of a long request (99th percentile of output lengths); if that is most of
the job, all of it is simulated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.prefix_tree import PrefixTree, build_prefix_tree
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.cost.bounds import bounds_of
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.segments import SegmentTree
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation
from sglang_blend.simulate.simulator import simulate_schedule

_BLOCKS = 400
_LIVES = 8.0
_MOST_SAMPLED_RATIO = 0.7


class Predicted(NamedTuple):
    """A schedule's makespan, seconds, and the part (0 to 1) of the possible sharing that the cache keeps.

    Of a sampled job the latter is the sample's.
    """

    makespan_s: float
    sharing_kept: float

    @classmethod
    def of(cls, run: Simulation) -> Predicted:
        """What one simulation says."""
        return cls(run.makespan_s, run.sharing_kept)


class MakespanPredictor:
    """Simulates schedules of one job on one engine.

    Args:
        table: the job.
        cost: model and machine.
        engine: how the engine runs it.
        tree: the job's prefix tree, when it is there already.
        output_len: (n,) int64, true output lengths; None takes each schedule's estimates for the truth.
        max_requests: larger jobs are sampled, unless a sample would have to be most of the job.
        seed: of the sample.
        num_replicas: engines that share the job; each is taken to run a random part of its subtrees.
    """

    def __init__(
        self,
        table: RequestTable,
        cost: RooflineCost,
        engine: EngineConfig,
        *,
        tree: PrefixTree | None = None,
        output_len: IntArray | None = None,
        max_requests: int = 20_000,
        seed: int = 0,
        num_replicas: int = 1,
    ) -> None:
        self._cost, self._engine = cost, engine
        self._known_len = output_len
        tree = build_prefix_tree(table) if tree is None else tree
        self._job = SimulatedJob.from_table(table, table.max_new_tokens, tree=tree)
        self._part_size = -(-table.n // num_replicas)
        whole = self._part_size == table.n and table.n <= max_requests
        self._drawn = None if whole else _draw_rows(tree, np.random.default_rng(seed))
        self._num_replicas = num_replicas
        self._max_requests = max_requests

    def sample_size(self, schedule: Schedule) -> int | None:
        """Requests that are simulated for a schedule; None when it is the whole job."""
        if self._drawn is None:
            return None
        job = self._job_of(schedule)
        output = job.output_len.astype(np.float64)
        token_steps = (job.tree.prompt_len * output + output * output / 2.0)[self._drawn]
        enough = _LIVES * float(np.quantile(output, 0.99)) * self._cost.kv_pool_tokens
        num = max(self._max_requests, int(np.searchsorted(np.cumsum(token_steps), enough)) + 1)
        if num <= _MOST_SAMPLED_RATIO * self._part_size:
            return num
        return None if self._num_replicas == 1 else self._part_size

    def __call__(self, schedule: Schedule) -> float:
        """Seconds that the schedule is predicted to take."""
        return self.predict(schedule).makespan_s

    def predict(self, schedule: Schedule) -> Predicted:
        """What the schedule is predicted to take, and to keep of the sharing."""
        job = self._job_of(schedule)
        size = self.sample_size(schedule)
        if size is None or self._drawn is None:
            return Predicted.of(simulate_schedule(job, schedule, self._cost, self._engine))
        if size == self._part_size:
            part = _restrict(job, schedule, np.sort(self._drawn[:size]))
            return Predicted.of(simulate_schedule(*part, self._cost, self._engine))
        rows = (np.sort(self._drawn[:size]), np.sort(self._drawn[: size // 2]))
        whole, half = (_restrict(job, schedule, part) for part in rows)
        runs = [simulate_schedule(*part, self._cost, self._engine) for part in (whole, half)]
        seconds = [run.makespan_s for run in runs]
        work = [self._work_s(part) for part in (job, whole[0], half[0])]
        pace = (seconds[0] - seconds[1]) / (work[1] - work[2]) if work[1] > work[2] else seconds[0] / work[1]
        # No engine is faster than the optimum, which is at least half of compute + memory.
        rest_s = (work[0] / self._num_replicas - work[1]) * max(pace, 0.5)
        return Predicted(seconds[0] + rest_s, runs[0].sharing_kept)

    def simulation(self, schedule: Schedule) -> Simulation:
        """The whole job's record, however large the job is."""
        return simulate_schedule(self._job_of(schedule), schedule, self._cost, self._engine)

    def _job_of(self, schedule: Schedule) -> SimulatedJob:
        truth = schedule.est_output_len if self._known_len is None else self._known_len
        return replace(self._job.believing(schedule), output_len=truth)

    def _work_s(self, job: SimulatedJob) -> float:
        return bounds_of(job.tree, job.output_len, self._cost, 0.0).sequential_s


def _draw_rows(tree: PrefixTree, rng: np.random.Generator) -> IntArray:
    """(n,) int64, all rows, whole subtrees in random order."""
    small = tree.node_num_leaves * _BLOCKS <= tree.n
    small[:1] = False
    topmost = small & ~small[tree.node_parent]
    over_leaf = tree.nearest_marked(topmost)[tree.leaf_parent]
    block = np.where(topmost[over_leaf], over_leaf, tree.num_nodes + np.arange(tree.n))
    distinct, block = np.unique(block, return_inverse=True)
    place = rng.permutation(len(distinct))
    rows: IntArray = tree.sequence[np.argsort(place[block], kind="stable")]
    return rows


def _restrict(job: SimulatedJob, schedule: Schedule, rows: IntArray) -> tuple[SimulatedJob, Schedule]:
    """The job of some rows, and its schedule: the same order, sides and beliefs, ranks counted anew.

    Segments keep their place even where a single reader is left, which changes no cost.
    """
    tree = SegmentTree(
        parent=job.tree.parent,
        end_len=job.tree.end_len,
        leaf=job.tree.leaf[rows],
        prompt_len=job.tree.prompt_len[rows],
    )
    part = SimulatedJob(
        tree=tree.without_unread(),
        output_len=job.output_len[rows],
        est_output_len=job.est_output_len[rows],
        admission_output_len=job.admission_output_len[rows],
        max_new_tokens=job.max_new_tokens[rows],
        is_fixed_len=job.is_fixed_len[rows],
    )
    rank = np.empty(len(rows), np.int64)
    rank[np.argsort(schedule.rank[rows], kind="stable")] = np.arange(len(rows))
    columns = ("side", "est_output_len", "admission_output_len", "unit")
    return part, replace(schedule, rank=rank, **{name: getattr(schedule, name)[rows] for name in columns})
