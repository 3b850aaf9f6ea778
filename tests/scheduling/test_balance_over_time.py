"""`SideBalance` drives the simulated engine: merging the sides at run time costs nothing against the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.output_length import OutputEstimate
from sglang_blend.core.request import Schedule, Side
from sglang_blend.cost.hardware import hardware
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.scheduling.balance import SideBalance
from sglang_blend.scheduling.hints import PlannedHints
from sglang_blend.scheduling.lengths import PlannedLen
from sglang_blend.scheduling.request_state import RequestState, WaitingRequests
from sglang_blend.simulate.engine_config import EngineConfig, Mode
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate, simulate_schedule
from sglang_blend.simulate.synthesis import paper_trace, synthesise

COST = RooflineCost(shape=model_shape("llama-3.1-8b"), hardware=hardware("H200"))


class BalancedFeed:
    """The two lines of the scheduler, merged by the memory that each side holds."""

    def __init__(self, schedule: Schedule, hints: PlannedHints, prompt_len: np.ndarray) -> None:
        self._balance = SideBalance(COST.kv_pool_tokens)
        self._lines = WaitingRequests()
        self._requests = []
        for row in range(schedule.n):
            hint = hints.of(row)
            request = RequestState(
                handle=row,
                rid=str(row),
                key=(1, 0, hint.rank, row),
                side=hint.side,
                prompt_len=int(prompt_len[row]),
                max_new_tokens=10**6,
                expected=PlannedLen(hint.est_output_len, hint.est_output_len),
                planned_len=hint.est_output_len,
                density=hint.density,
                root_density=hint.root_density,
            )
            self._requests.append(request)
            self._lines.add(request)

    def arrange(self, pool: KvPool) -> None:
        """What is in the cache decides nothing."""

    def peek(self) -> int | None:
        left, right = self._lines.ahead(Side.LEFT, 0), self._lines.ahead(Side.RIGHT, 0)
        side = self._balance.next_side(left, right)
        head = left if side == Side.LEFT else right
        return None if head is None else head.handle

    def pop(self, request: int) -> None:
        taken = self._lines.remove(str(request))
        self._balance.used[taken.account] += taken.peak_tokens

    def give_back(self, request: int) -> None:
        self.release(request)
        self._lines.add(self._requests[request])

    def release(self, request: int) -> None:
        done = self._requests[request]
        self._balance.used[done.account] -= done.peak_tokens


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "mixed", "pdmux"])
def test_merging_at_run_time_is_as_fast_as_the_planned_order(mode: Mode) -> None:
    """BlendServe's fourth trace, lengths known.

    It is a quarter slower beside a prefill that never ends (pdmux) where compute-intensive requests, which
    leave at once, decide how many memory-intensive ones may run.
    """
    trace = synthesise(COST, replace(paper_trace(4), num_requests=5000), seed=0)
    lengths = OutputEstimate(trace.output_len, trace.output_len, trace.table.n)
    config = PlanConfig(order="dual-scan")
    workload = make_workload(trace.table, COST, config, lengths=lengths)
    schedule = make_schedule(trace.table, COST, config, workload=workload)
    job = SimulatedJob.from_table(trace.table, trace.output_len, tree=workload.tree)
    engine = EngineConfig(mode=mode).on(COST.hardware).under("dual-scan")
    planned = simulate_schedule(job, schedule, COST, engine)
    feed = BalancedFeed(schedule, PlannedHints(workload, schedule), job.tree.prompt_len)
    merged = simulate(job.believing(schedule), schedule.sequence, COST, engine, feed=feed)
    assert merged.makespan_s <= 1.05 * planned.makespan_s
