"""The plan of a job: sample, order, hints, and estimates that follow what finishes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sglang_blend.core import RequestTable
from sglang_blend.core.request import Side
from sglang_blend.cost.shape_registry import CONFIGS
from sglang_blend.plan.job_plan import (
    LEAST_TO_SAMPLE,
    JobPlan,
    cost_of,
    engine_of,
)
from sglang_blend.request import EngineFacts
from sglang_blend.scheduling.hints import HINTS_KEY, read_hints
from sglang_blend.simulate.predict import MakespanPredictor

FACTS = EngineFacts(dict(CONFIGS["llama-3-8b"]), "NVIDIA H200", 1, 100_000, 1, 256, "dual-scan")


def job(n: int, *, fixed_output: bool = False) -> RequestTable:
    """Half of the requests: a long shared prefix and short outputs; the others the other way round."""
    rng = np.random.default_rng(0)
    prompts = [
        [*range(400), *rng.integers(1000, 9000, 30).tolist()]
        if i % 2
        else rng.integers(1000, 9000, 40).tolist()
        for i in range(n)
    ]
    caps = [4 if i % 2 else 800 for i in range(n)]
    return RequestTable.from_lists(prompts, max_new_tokens=caps, fixed_output=fixed_output)


@pytest.mark.parametrize(
    ("n", "fixed", "order", "reason"),
    [
        (50, False, "dual-scan", "only 50 requests of unknown length"),
        (LEAST_TO_SAMPLE, True, "dual-scan", "every output length is fixed"),
        (LEAST_TO_SAMPLE, False, "dfs", "order dfs does not look at lengths"),
    ],
)
def test_a_sample_that_would_teach_nothing_is_skipped_with_the_reason(
    n: int, fixed: bool, order: str, reason: str
) -> None:
    plan = JobPlan(job(n, fixed_output=fixed), FACTS, order=order)
    assert len(plan.sample) == 0
    assert reason in plan.sample_skipped


def test_a_job_is_planned_for_an_engine_that_shares_reads() -> None:
    """Reading a prefix once a step leaves less memory time, so the same job is more compute-intensive."""
    table = job(200, fixed_output=True)
    densities: list[Any] = []
    for facts in (FACTS, FACTS._replace(shares_reads=True)):
        plan = JobPlan(table, facts, order="dual-scan")
        plan.make()
        densities.append(plan.schedule.root_density)
    assert densities[1] > densities[0]


def test_what_the_sample_teaches_is_in_the_hints() -> None:
    table = job(LEAST_TO_SAMPLE)
    plan = JobPlan(table, FACTS, order="dual-scan")
    assert len(plan.sample) == LEAST_TO_SAMPLE * 0.01
    assert plan.hints(0) is None, "no order yet"
    for row in plan.sample.tolist():
        plan.observe(row, 3 if row % 2 else 120)
    plan.make()
    for row, expected in ((0, 120), (1, 3)):
        hints = read_hints({HINTS_KEY: plan.hints(row)})
        assert hints is not None
        assert hints.est_output_len == expected
        assert hints.rank == plan.schedule.rank[row]
        assert hints.side == plan.schedule.side[row]
        assert hints.num_observed == len(plan.sample)
        assert hints.shared_len == (400 if row % 2 else 0)


def test_estimates_and_densities_follow_what_finishes_and_the_order_stays() -> None:
    """Outputs of 50 tokens where 400 were expected leave less to read."""
    plan = JobPlan(job(200), FACTS, order="dual-scan")
    plan.make()
    before = plan.schedule.rank.copy()
    first = int(plan.schedule.sequence[0])
    planned = plan.hints(first)
    assert not plan.wants_renewal
    for row in range(0, 40, 2):
        plan.observe(row, 50)
    assert plan.wants_renewal
    plan.renew()
    assert not plan.wants_renewal
    assert plan.hints(100)["est_output_len"] == 50
    assert np.array_equal(plan.schedule.rank, before)
    assert plan.hints(first)["root_density"] > 2 * planned["root_density"]


def test_a_run_is_predicted_as_paced_by_lengths_that_the_scheduler_learns() -> None:
    """Nobody knew that outputs are short; the scheduler finds out while it runs, also when simulated."""
    facts = FACTS._replace(mode="mixed", max_running_requests=4096)
    plan = JobPlan(job(400), facts, order="stationary")
    plan.make()
    assert plan.simulate_as_it_turned_out() is None, "nothing has finished"
    for row in range(400):
        plan.observe(row, 3)
    cost = cost_of(facts)
    assert cost is not None
    as_planned = MakespanPredictor(
        job(400), cost, engine_of(facts, cost), output_len=np.full(400, 3, np.int64)
    )
    result = plan.simulate_as_it_turned_out()
    assert result is not None
    assert result.makespan_s == pytest.approx(as_planned(plan.schedule), rel=0.05)


def test_densities_in_hints_fall_from_left_to_right() -> None:
    plan = JobPlan(job(400, fixed_output=True), FACTS._replace(mode="mixed"), order="dual-scan")
    plan.make()
    hints = [read_hints({HINTS_KEY: plan.hints(row)}) for row in range(400)]
    left = [h.density for h in hints if h is not None and h.side == Side.LEFT]
    right = [h.density for h in hints if h is not None and h.side == Side.RIGHT]
    assert left
    assert right
    assert np.median(left) > np.median(right)


def test_an_order_that_is_not_surely_faster_gives_way_to_dfs() -> None:
    """A step of the stock engine hides nothing, so there is nothing to win, and the plan says so."""
    plan = JobPlan(job(400), FACTS, order="dual-scan")
    plan.make()
    assert plan.schedule.order == "dfs"
    assert plan.schedule.reason.startswith("dfs, not blended: dual-scan is predicted to take")
    assert set(plan.predicted_s) == {"dual-scan", "dfs"}


def test_a_model_that_is_not_understood_is_planned_without_a_cost_model() -> None:
    plan = JobPlan(job(50), FACTS._replace(model_config={"model_type": "unheard-of"}), order="auto")
    plan.make()
    assert plan.schedule.order == "dfs"
    assert "cost model" in plan.schedule.reason
