"""Many simulated engines: one is the engine that is simulated alone, nothing is lost, and stealing helps
where the cut was wrong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_blend.cluster.partition import Partition, cut
from sglang_blend.cluster.simulated import ClusterSimulation, simulate_cluster
from sglang_blend.core.config import PlanConfig
from sglang_blend.core.orders import make_schedule, make_workload
from sglang_blend.core.request import RequestTable, Schedule
from sglang_blend.core.workload import Workload
from sglang_blend.simulate.engine_config import MODES, EngineConfig
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.simulator import simulate_schedule
from simulate.jobs import COST, lone_cost

POOL_TOKENS = 20_000
OVERLAP = EngineConfig(mode="overlap", admission="peak", chunk_tokens=512)


class Planned(NamedTuple):
    """A job with its plan for so many replicas."""

    job: SimulatedJob
    workload: Workload
    schedule: Schedule
    config: PlanConfig

    def cut(self, num_replicas: int) -> Partition:
        """Equal parts."""
        return cut(self.workload, self.config, [1.0] * num_replicas)

    def all_in_one_part(self, num_replicas: int) -> Partition:
        """The worst cut: everything for the first replica."""
        one = self.cut(1)
        rest = np.zeros(num_replicas - 1)
        return one._replace(compute_s=np.append(one.compute_s, rest), memory_s=np.append(one.memory_s, rest))

    def run(
        self,
        parts: Partition,
        engine: EngineConfig = OVERLAP,
        *,
        pool_tokens: int = POOL_TOKENS,
        window: int = 2048,
        steal: bool = True,
    ) -> ClusterSimulation:
        """On as many engines as there are parts."""
        tree = self.workload.tree
        return simulate_cluster(
            self.job,
            self.schedule,
            parts,
            lone_cost(pool_tokens),
            engine,
            work_s=self.workload.leaf_work_s[tree.leaf_of_row],
            window=window,
            steal=steal,
        )


def plan(num_requests: int, seed: int, order: str, num_replicas: int) -> Planned:
    """Half short answers that share prefixes, half long answers; what is believed of lengths is wrong."""
    rng = np.random.default_rng(seed)
    stems = rng.integers(0, 5000, (8, 300)).tolist()
    prompts, output_len = [], []
    for _ in range(num_requests):
        own = rng.integers(0, 5000, int(rng.integers(10, 80))).tolist()
        is_short = rng.random() < 0.5
        prompts.append(stems[int(rng.integers(8))] + own if is_short else own)
        output_len.append(int(rng.integers(1, 6)) if is_short else int(rng.integers(50, 400)))
    table = RequestTable.from_lists(prompts, max_new_tokens=[5 if d < 6 else 400 for d in output_len])
    config = PlanConfig(order=order, seed=seed, num_replicas=num_replicas)
    cost = lone_cost(POOL_TOKENS).with_pools(num_replicas)
    workload = make_workload(table, cost, config)
    job = SimulatedJob.from_table(table, np.array(output_len, np.int64), tree=workload.tree)
    return Planned(job, workload, make_schedule(table, cost, config, workload=workload), config)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 100),
    mode=st.sampled_from(MODES),
    order=st.sampled_from(["fcfs", "dfs", "stationary", "dual-scan"]),
    admission=st.sampled_from(["peak", "ratio"]),
    paced=st.booleans(),
)
def test_one_replica_is_the_engine_that_is_simulated_alone(
    seed: Any, mode: Any, order: Any, admission: Any, paced: Any
) -> None:
    """To the last bit where SGLang's rules take the first in the queue.

    Our scheduler also looks at those behind it, of which a replica has fewer near the end.
    """
    planned = plan(120, seed, order, 1)
    engine = EngineConfig(mode=mode, admission=admission, ratio_start=1.0, paced=paced)
    cost = lone_cost(8_000)
    alone = simulate_schedule(planned.job, planned.schedule, cost, engine)
    one = planned.run(planned.cut(1), engine, pool_tokens=8_000)
    assert one.num_steals == 0
    assert one.busy_ratio == 1.0
    assert one.end_s.tolist() == [one.makespan_s]
    if admission == "peak":
        assert one.makespan_s == pytest.approx(alone.makespan_s, rel=0.15)
        return
    assert one.makespan_s == alone.makespan_s
    assert one.computed_tokens == alone.computed_tokens
    assert one.sharing_kept == alone.sharing_kept
    assert one.retractions == alone.retractions


def test_a_window_smaller_than_the_running_batch_limits_it() -> None:
    """That is the one thing in which a single replica differs from the engine alone."""
    planned = plan(200, 0, "stationary", 1)
    alone = simulate_schedule(planned.job, planned.schedule, lone_cost(POOL_TOKENS), OVERLAP)
    assert planned.run(planned.cut(1), window=8).makespan_s > 1.2 * alone.makespan_s


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100),
    num_replicas=st.integers(2, 7),
    order=st.sampled_from(["dfs", "stationary", "dual-scan"]),
    steal=st.booleans(),
    is_cut_well=st.booleans(),
    window=st.sampled_from([4, 64, 2048]),
)
def test_every_request_runs_once_on_some_replica(
    seed: Any, num_replicas: Any, order: Any, steal: Any, is_cut_well: Any, window: Any
) -> None:
    """All outputs are generated, each prompt token is computed or found in a cache, whoever stole what."""
    planned = plan(100, seed, order, num_replicas)
    parts = planned.cut(num_replicas) if is_cut_well else planned.all_in_one_part(num_replicas)
    result = planned.run(parts, steal=steal, window=window)
    tree = planned.job.tree
    assert result.num_requests == planned.job.n
    assert result.output_tokens == int(planned.job.output_len.sum())
    assert tree.unique_tokens <= result.computed_tokens <= int(tree.prompt_len.sum())
    assert 0.0 <= result.sharing_kept <= 1.0
    assert result.makespan_s == result.end_s.max()
    assert len(result.end_s) == num_replicas
    if not steal:
        assert result.num_steals == result.num_stolen == 0


def test_parts_that_share_nothing_compute_what_the_cut_says_they_lose() -> None:
    """With a pool that forgets nothing and no stealing, the caches together compute the parts' trees."""
    planned = plan(300, 1, "dfs", 4)
    parts = planned.cut(4)
    result = planned.run(parts, pool_tokens=200_000, steal=False)
    assert parts.lost_tokens > 0
    # Nobody waits for fewer than eight tokens that another one computes.
    assert result.computed_tokens >= parts.unique_tokens + parts.lost_tokens
    assert result.computed_tokens <= 1.01 * (parts.unique_tokens + parts.lost_tokens)


def test_stealing_repairs_a_cut_that_was_wrong_on_purpose() -> None:
    """Everything in one of four parts: with stealing all four work, without it three wait."""
    planned = plan(600, 2, "stationary", 4)
    wrong = planned.all_in_one_part(4)
    with_steals, without = planned.run(wrong), planned.run(wrong, steal=False)
    right = planned.run(planned.cut(4))
    assert without.busy_ratio == pytest.approx(0.25)
    assert with_steals.busy_ratio > 0.85
    assert with_steals.num_stolen > 300
    assert with_steals.makespan_s < 0.55 * without.makespan_s
    assert with_steals.makespan_s < 1.25 * right.makespan_s


def test_stealing_helps_where_lengths_come_out_otherwise_than_expected() -> None:
    """One part's outputs are twice as long as believed, the others' half as long."""
    planned = plan(2000, 3, "stationary", 4)
    parts = planned.cut(4)
    output_len = np.where(parts.of_row == 0, 2 * planned.job.output_len, planned.job.output_len // 2 + 1)
    surprised = planned._replace(
        job=SimulatedJob.from_table(planned.workload.table, output_len, tree=planned.workload.tree)
    )
    with_steals, without = (surprised.run(parts, window=64, steal=steal) for steal in (True, False))
    assert with_steals.makespan_s < 0.7 * without.makespan_s
    assert with_steals.busy_ratio > 0.9


def test_busy_ratio_is_the_mean_time_over_the_longest() -> None:
    """Half of two replicas' time is lost where one has nothing."""
    planned = plan(50, 4, "dfs", 2)
    alone = planned.run(planned.all_in_one_part(2), steal=False)
    assert alone.end_s[1] == 0.0
    assert alone.busy_ratio == 0.5


def test_more_replicas_than_requests_and_no_request_at_all() -> None:
    """Replicas without work end at once."""
    few = plan(3, 5, "dfs", 6)
    assert few.run(few.cut(6)).num_requests == 3
    none = plan(0, 0, "dfs", 2)
    result = none.run(none.cut(2))
    assert (result.makespan_s, result.busy_ratio, result.sharing_kept) == (0.0, 1.0, 1.0)


@pytest.mark.slow
def test_two_replicas_are_about_twice_as_fast() -> None:
    """A job of many lives of its longest output, cut in two."""
    one, two = (plan(3000, 6, "stationary", num) for num in (1, 2))
    makespan = [planned.run(planned.cut(num)).makespan_s for num, planned in ((1, one), (2, two))]
    assert 1.8 < makespan[0] / makespan[1] < 2.05


def test_the_cost_model_of_several_pools_is_for_planning_alone() -> None:
    """Its pool is that of all replicas, its times those of one."""
    wide = COST.with_pools(4)
    assert wide.kv_pool_tokens == 4 * COST.kv_pool_tokens
    assert wide.token_s == COST.token_s
