"""An iteration-level model of the serving engine: what a schedule would take, without a GPU.

`SimulatedJob.from_table(table, output_len)` prepares a job once; `simulate_schedule(job, schedule, cost,
config)` runs a schedule in one engine, `simulate(job, sequence, cost, config)` a bare order; both return a
`Simulation`. `simulated_engine` has the loop. Results are simulated, never measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.request import Schedule, Side
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import PlanError
from sglang_blend.scheduling.hints import Hints, rest_density, unit_density
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.rules import ListSource
from sglang_blend.simulate.simulated_engine import SimulatedEngine
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation


@dataclass(frozen=True, kw_only=True, eq=False)
class JobHints:
    """What each request of a simulated job carries to the scheduler, as `scheduling.hints.PlannedHints`.

    Attributes:
        job: whose lengths are believed.
        cost: the machine.
        rank, side, unit: (n,) columns of a schedule.
        num_observed: finished requests that the lengths rest on; 0 lets the scheduler learn its own.
    """

    job: SimulatedJob
    cost: RooflineCost
    rank: IntArray
    side: NDArray[np.int8]
    unit: IntArray
    num_observed: int

    @classmethod
    def of_schedule(cls, job: SimulatedJob, cost: RooflineCost, schedule: Schedule) -> JobHints:
        """A plan's; the job believes its lengths."""
        return cls(
            job=job.believing(schedule),
            cost=cost,
            rank=schedule.rank,
            side=schedule.side,
            unit=schedule.unit,
            num_observed=schedule.num_observed,
        )

    def of(self, row: int) -> Hints:
        """Those of one request."""
        (rank, side, length, reserved, observed, density, rest, shared) = self._rows
        return Hints(
            rank[row],
            Side(side[row]),
            max(round(length[row]), 1),
            max(round(reserved[row]), round(length[row]), 1),
            observed[row],
            density[row],
            rest[row],
            shared[row],
        )

    @cached_property
    def _rows(
        self,
    ) -> tuple[
        list[int], list[int], list[float], list[float], list[int], list[float], list[float], list[int]
    ]:
        job, (compute_s, memory_s) = self.job, self._loads
        observed = np.maximum(self.num_observed, job.is_fixed_len.astype(np.int64))
        return (
            self.rank.tolist(),
            self.side.tolist(),
            job.est_output_len.tolist(),
            job.admission_output_len.tolist(),
            observed.tolist(),
            unit_density(self.unit, compute_s, memory_s).tolist(),
            rest_density(self.rank, compute_s, memory_s).tolist(),
            job.tree.end_len[job.tree.leaf].tolist(),
        )

    @property
    def _loads(self) -> tuple[FloatArray, FloatArray]:
        """Compute and memory seconds of each row."""
        tree, length = self.job.tree, self.job.est_output_len
        read_len = tree.read_len(self.cost, length)
        memory_s: FloatArray = self.cost.memory_s(read_len, length)  # type: ignore[arg-type]
        return tree.spread_compute_s(self.cost, length), memory_s


def engine_of(
    job: SimulatedJob,
    sequence: IntArray,
    cost: RooflineCost,
    config: EngineConfig,
    *,
    hints: JobHints | None = None,
    record_timeline: bool = False,
    is_left: NDArray[np.bool_] | None = None,
) -> SimulatedEngine:
    """An engine with one order before it, which nobody has run yet.

    Args:
        job: the job.
        sequence: (n,) int64, requests in planned order, each once.
        cost: times and pool size.
        config: the engine.
        hints: of a plan; None makes them of the bare order, with the job's lengths taken to be observed.
        record_timeline: whether to keep the steps.
        is_left: (n,) bool, requests of the left side, whose share of the memory the timeline then has.

    Raises:
        PlanError: a request cannot fit the pool even alone, or the sequence is no permutation.
    """
    if len(sequence) != job.n or not np.array_equal(np.sort(sequence), np.arange(job.n)):
        raise PlanError(
            f"the order names {len(sequence)} requests, the job has {job.n}, each once; plan again"
        )
    if hints is None:
        rank = np.empty(job.n, np.int64)
        rank[sequence] = np.arange(job.n)
        none = np.full(job.n, Side.NONE, np.int8)
        hints = JobHints(job=job, cost=cost, rank=rank, side=none, unit=np.arange(job.n), num_observed=1)
    source = ListSource(sequence, config.window)
    return SimulatedEngine(
        job, source, cost, config, hints=hints, record_timeline=record_timeline, is_left=is_left
    )


def simulate(
    job: SimulatedJob,
    sequence: IntArray,
    cost: RooflineCost,
    config: EngineConfig,
    *,
    record_timeline: bool = False,
    is_left: NDArray[np.bool_] | None = None,
) -> Simulation:
    """Runs one order through one engine; arguments and errors as for `engine_of`."""
    engine = engine_of(job, sequence, cost, config, record_timeline=record_timeline, is_left=is_left)
    engine.run()
    return engine.result()


def simulate_schedule(
    job: SimulatedJob,
    schedule: Schedule,
    cost: RooflineCost,
    config: EngineConfig,
    *,
    record_timeline: bool = False,
) -> Simulation:
    """Runs a schedule: its order and its beliefs about output lengths, which take the place of the job's.

    Raises:
        PlanError: as `simulate`.
    """
    has_sides = record_timeline and bool((schedule.side != Side.NONE).any())
    engine = engine_of(
        job,
        schedule.sequence,
        cost,
        config,
        hints=JobHints.of_schedule(job, cost, schedule),
        record_timeline=record_timeline,
        is_left=schedule.side == Side.LEFT if has_sides else None,
    )
    engine.run()
    return engine.result()
