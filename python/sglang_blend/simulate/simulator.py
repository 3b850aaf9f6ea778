"""An iteration-level model of the serving engine: what a schedule would take, without a GPU.

`SimulatedJob.from_table(table, output_len)` prepares a job once; `simulate_schedule(job, schedule, cost,
config)` runs a schedule in one engine, `simulate(job, sequence, cost, config)` a bare order; both return a
`Simulation`. `simulated_engine` has the loop. Results are simulated, never measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sglang_blend.core.cost_model import IntArray
from sglang_blend.core.request import Schedule, Side
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import PlanError
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.feed import Feed, ListFeed
from sglang_blend.simulate.simulated_engine import SimulatedEngine
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation
from sglang_blend.simulate.stock_queues import STOCK_QUEUES


def simulate(
    job: SimulatedJob,
    sequence: IntArray,
    cost: RooflineCost,
    config: EngineConfig,
    *,
    feed: Feed | None = None,
    record_timeline: bool = False,
    is_left: NDArray[np.bool_] | None = None,
) -> Simulation:
    """Runs one order through one engine.

    Args:
        job: the job.
        sequence: (n,) int64, requests in planned order, each once.
        cost: times and pool size.
        config: the engine.
        feed: takes the place of the list of `sequence`, and of `config.queue`.
        record_timeline: whether to keep the steps.
        is_left: (n,) bool, requests of the left side, whose share of the memory the timeline then has.

    Raises:
        PlanError: a request cannot fit the pool even alone, or the sequence is no permutation.
    """
    if len(sequence) != job.n or not np.array_equal(np.sort(sequence), np.arange(job.n)):
        raise PlanError(
            f"the order names {len(sequence)} requests, the job has {job.n}, each once; plan again"
        )
    if feed is None:
        sorts = STOCK_QUEUES.get(config.queue)
        feed = ListFeed(sequence) if sorts is None else sorts(sequence, job.tree)
    engine = SimulatedEngine(job, feed, cost, config, record_timeline=record_timeline, is_left=is_left)
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
    return simulate(
        job.believing(schedule),
        schedule.sequence,
        cost,
        config,
        record_timeline=record_timeline,
        is_left=schedule.side == Side.LEFT if has_sides else None,
    )
