"""The plan of a job: which requests run first to learn output lengths, in which order the rest runs, and
what each carries to the scheduler.

    plan = JobPlan(table, facts, order="auto")
    plan.sample                      # rows to run first; their results are kept
    plan.observe(row, output_len)    # as requests finish
    plan.make()                      # after the sample
    plan.schedule.sequence, plan.hints(row)

Estimates are renewed while the job runs, so a request that is fed late carries what the early ones taught.

Source: BlendServe, arXiv:2411.16102, sections 5.1 (sampling) and 5.4 (online adaptation).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from sglang_blend.console import counted
from sglang_blend.core import (
    CostModel,
    OutputLengths,
    PlanConfig,
    RequestTable,
    Schedule,
    build_prefix_tree,
    choose_sample,
    make_schedule,
)
from sglang_blend.core.cost_model import FloatArray, IntArray
from sglang_blend.core.output_length import draw_lengths
from sglang_blend.core.workload import Workload
from sglang_blend.cost.bounds import Bounds, bounds_of
from sglang_blend.cost.of_engine import cost_of_engine
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.request import EngineFacts
from sglang_blend.scheduling.hints import PlannedHints
from sglang_blend.simulate.engine_config import SIMULATED_POLICIES, EngineConfig
from sglang_blend.simulate.predict import MakespanPredictor
from sglang_blend.simulate.simulated_job import SimulatedJob, Simulation

# With fewer requests of unknown length a sample would be most of the time that it could save.
LEAST_TO_SAMPLE = 1000
# `auto` simulates at most about this many requests of a job: seconds, while the engine would wait.
_SIMULATED = 4000
# What is predicted for the report alone may take so many: seconds, when the engine is gone.
_MOST_SIMULATED = 8000
# Estimates are renewed whenever this part more of the job has finished.
_RENEW_RATIO = 0.05


class JobPlan:
    """Made once per job; `observe` and `renew` adapt the estimates, never the order."""

    def __init__(self, table: RequestTable, facts: EngineFacts | None, *, order: str, seed: int = 0) -> None:
        """Sort the prompts and choose the sample; the order comes with `make`.

        Args:
            facts: of the engine; None leaves only orders that need no cost model.
        """
        page_size = 1 if facts is None else facts.page_size
        self._num_replicas = 1 if facts is None else facts.num_replicas
        self.config = PlanConfig(order=order, seed=seed, page_size=page_size, num_replicas=self._num_replicas)
        self._cost = None if facts is None else cost_of(facts)  # of one replica
        self._table = table
        self.tree = build_prefix_tree(table, page_size=page_size)
        self._lengths = OutputLengths(table, self.tree, self.config)
        self._num_observed, self._num_at_renewal = 0, 0
        self.sample, self.sample_skipped = self._choose_sample()
        self._hints: PlannedHints | None = None
        self._schedule: Schedule | None = None
        self._workload: Workload | None = None
        self._work_s: FloatArray | None = None  # set by make, where there is a cost model
        self._facts = facts
        self._engine = engine_of(facts, self._cost)
        self.plan_s = 0.0  # what `make` took, seconds
        self.predicted_s: dict[str, float] = {}  # simulated makespan of each order that was looked at

    @property
    def schedule(self) -> Schedule:
        """The order; after `make`."""
        assert self._schedule is not None, "make() comes first"
        return self._schedule

    @property
    def is_made(self) -> bool:
        """Whether there is an order yet."""
        return self._schedule is not None

    @property
    def cost(self) -> CostModel | None:
        """The cost model of one replica."""
        return self._cost

    def make(self) -> None:
        """Plan with what has been observed so far; seconds for a million requests."""
        started = time.monotonic()
        lengths = self._lengths.estimate()
        cost = None if self._cost is None else self._cost.with_pools(self._num_replicas)
        workload = Workload(table=self._table, tree=self.tree, lengths=lengths, cost=cost)
        predictor = self._predictor()
        drawn = draw_lengths(self._table, lengths, self.config.seed)

        def predict(schedule: Schedule) -> float:
            assert predictor is not None, "there is a cost model"
            return self.predicted_s.setdefault(schedule.order, predictor(schedule))

        self._schedule = make_schedule(
            self._table,
            cost,
            self.config,
            predict=None if predictor is None else predict,
            predict_drawn=None if drawn is None else self._predictor(drawn),
            workload=workload,
        )
        self._workload = workload
        if self._cost is not None:
            self._work_s = workload.leaf_work_s[self.tree.leaf_of_row]
        self._hints = PlannedHints(workload, self._schedule)
        self.plan_s = time.monotonic() - started

    def simulate_as_it_turned_out(self) -> Simulation | None:
        """The schedule simulated with the true output lengths; after the job.

        None without a cost model, while a request has not ended, or where it would take too long.
        """
        observed = self._lengths.observed
        if not isinstance(self._cost, RooflineCost) or np.isnan(observed).any():
            return None
        if self._table.n > _MOST_SIMULATED:
            return None
        predictor = MakespanPredictor(
            self._table, self._cost, self._engine, tree=self.tree, output_len=observed.astype(np.int64)
        )
        return predictor.simulation(self.schedule)

    def predict(self) -> float | None:
        """Simulated makespan of the schedule, seconds, by what was known when it was made.

        None where that would take too long, or there is no cost model.
        """
        schedule, predictor = self.schedule, self._predictor()
        if schedule.order not in self.predicted_s and predictor is not None:
            if (predictor.sample_size(schedule) or schedule.n) > _MOST_SIMULATED:
                return None
            self.predicted_s[schedule.order] = predictor(schedule)
        return self.predicted_s.get(schedule.order)

    @property
    def workload(self) -> Workload:
        """The job as it was planned; after `make`."""
        assert self._workload is not None, "make() comes first"
        return self._workload

    @property
    def engine_facts(self) -> EngineFacts | None:
        """What was known of the engine."""
        return self._facts

    def bounds(self) -> Bounds | None:
        """What no order can beat, by the lengths that are known by now; None without a cost model."""
        if not isinstance(self._cost, RooflineCost):
            return None
        observed, planned = self._lengths.observed, self.schedule.est_output_len
        output_len = np.where(np.isnan(observed), planned, np.nan_to_num(observed)).astype(np.int64)
        job = SimulatedJob.from_table(self._table, output_len, tree=self.tree)
        whole = bounds_of(job.tree, output_len, self._cost, self._engine.interference)
        return whole.on_replicas(self._num_replicas)

    def _predictor(self, output_len: IntArray | None = None) -> MakespanPredictor | None:
        """Of makespans with these output lengths, or those that a schedule expects; None without a model."""
        if not isinstance(self._cost, RooflineCost):
            return None
        return MakespanPredictor(
            self._table,
            self._cost,
            self._engine,
            tree=self.tree,
            output_len=output_len,
            max_requests=_SIMULATED,
            seed=self.config.seed,
            num_replicas=self._num_replicas,
        )

    @property
    def table(self) -> RequestTable:
        """The requests that it is for."""
        return self._table

    @property
    def num_requests(self) -> int:
        """How many there are to run."""
        return self._table.n

    @property
    def work_s(self) -> FloatArray:
        """(n,) seconds of compute and memory traffic expected of each request; 1 where nothing is known."""
        return np.ones(self._table.n) if self._work_s is None else self._work_s

    def work(self, row: int) -> float:
        """One of `work_s`."""
        return 1.0 if self._work_s is None else float(self._work_s[row])

    @property
    def total_work(self) -> float:
        """The sum of `work` over all requests."""
        return float(self._table.n if self._work_s is None else self._work_s.sum())

    @property
    def in_words(self) -> str:
        """The order, why it was chosen, and what it keeps; after `make`."""
        schedule = self.schedule
        reason = f" ({schedule.reason})" if schedule.reason else ""
        shared = self.tree.sharing_possible
        kept = f", keeps {schedule.sharing_kept:.1%} of the sharing" if shared else ""
        return f"order {schedule.order}{reason}, {shared:.0%} of the prompt tokens are shared{kept}"

    def hints(self, row: int) -> dict[str, Any] | None:
        """What this request carries to the scheduler; None before `make`."""
        return None if self._hints is None else self._hints.of(row).to_json()

    def observe(self, row: int, output_len: int) -> None:
        """A request has finished."""
        self._lengths.observe(np.array([row], np.int64), np.array([output_len], np.int64))
        self._num_observed += 1

    @property
    def wants_renewal(self) -> bool:
        """Whether enough has finished since the estimates were made to make them again."""
        since = self._num_observed - self._num_at_renewal
        return self._hints is not None and since >= max(_RENEW_RATIO * self._table.n, 8)

    def renew(self) -> None:
        """Estimate the output lengths again; the order stays."""
        assert self._hints is not None, "make() comes first"
        self._num_at_renewal = self._num_observed
        self._hints = self._hints.renewed(self._lengths.estimate())

    def _choose_sample(self) -> tuple[IntArray, str]:
        """Rows to run first, or none and why."""
        none = np.empty(0, np.int64)
        num_unknown = int((~self._table.fixed_output).sum())
        if num_unknown == 0:
            return none, "every output length is fixed"
        if num_unknown < LEAST_TO_SAMPLE:
            few = counted(num_unknown, "request")
            return none, f"only {few} of unknown length; the scheduler learns as they finish"
        if self.config.order in ("fcfs", "random", "dfs"):
            return none, f"order {self.config.order} does not look at lengths"
        rng = np.random.default_rng(self.config.seed)
        return choose_sample(self._table, self.tree, self.config.sample_ratio, rng), ""


def engine_of(facts: EngineFacts | None, cost: RooflineCost | None) -> EngineConfig:
    """The engine that predictions are for: as it runs our policies, with what was measured on its machine."""
    if facts is None:
        return EngineConfig().under("dual-scan")
    engine = EngineConfig(
        mode=facts.mode,
        chunk_tokens=facts.chunk_tokens,
        max_running=facts.max_running_requests,
    ).under(facts.policy if facts.policy in SIMULATED_POLICIES else "fcfs")
    return engine if cost is None else engine.on(cost.hardware)


def cost_of(facts: EngineFacts) -> RooflineCost | None:
    """Cost model of a running engine; None where the shape of its model is not understood."""
    return cost_of_engine(
        facts.model_config,
        facts.device_name,
        tp_size=facts.tp_size,
        kv_pool_tokens=facts.kv_pool_tokens,
        kv_cache_dtype=facts.kv_cache_dtype,
        shares_reads=facts.shares_reads,
    )
