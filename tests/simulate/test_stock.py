"""The simulated queues stand as SGLang's own. Needs sglang."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_blend.core.request import RequestTable
from sglang_blend.simulate.kv_pool import KvPool
from sglang_blend.simulate.simulated_job import SimulatedJob
from sglang_blend.simulate.stock import STOCK_QUEUES

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def sglang() -> Any:
    """What the scheduler orders its queue with; importing it takes a while, and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sglang.srt.managers.schedule_policy", reason="sglang is not installed")
        from sglang.srt.managers.schedule_batch import Req
        from sglang.srt.managers.schedule_policy import SchedulePolicy
        from sglang.srt.mem_cache.base_prefix_cache import InsertParams
        from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey
        from sglang.srt.sampling.sampling_params import SamplingParams
        from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

        set_global_server_args_for_scheduler(ServerArgs(model_path="dummy", device="cpu"))
    return Req, SchedulePolicy, InsertParams, RadixCache, RadixKey, SamplingParams


@st.composite
def prompts(draw: st.DrawFn) -> list[list[int]]:
    """Paths of a small tree of long segments, each with an end of its own."""
    segment = st.tuples(st.integers(0, 2), st.sampled_from([8, 31, 32, 33, 50]))
    paths = draw(st.lists(st.lists(segment, max_size=3), min_size=2, max_size=14))
    more = draw(st.sampled_from([0, 0, 120, 126]))  # so that more than 128 may wait
    paths += [[]] * more
    return [
        [
            token
            for depth, (kind, length) in enumerate(path)
            for token in [100 * depth + 10 * kind + length] * length
        ]
        + [10_000 + i]
        for i, path in enumerate(paths)
    ]


def _queues(
    sglang: Any, policy: str, prompts: list[list[int]], done: Sequence[int], waiting: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The simulated queue and SGLang's, with the prompts `done` in the cache, computed in that order."""
    req_class, policy_class, insert_params, cache_class, key_class, params_class = sglang
    table = RequestTable.from_lists(prompts, max_new_tokens=4)
    job = SimulatedJob.from_table(table, np.full(len(prompts), 4, np.int64))
    pool = KvPool(job.tree, 100_000, "lru")
    cache = cache_class.create_simulated()
    for row in done:
        pool.computed(row, pool.acquire(row, 1))
        cache.insert(insert_params(key=key_class(array("q", prompts[row]))))
    reqs = []
    for row in waiting:
        params = params_class(max_new_tokens=4)
        params.normalize(None)
        reqs.append(req_class(str(row), "", array("q", prompts[row]), params))
    policy_class(policy, cache, False, False, False).calc_priority(reqs)
    simulated = STOCK_QUEUES[policy](job.tree)
    for row in waiting:
        simulated.add(row)
    simulated.arrange(pool)
    queue = []
    while (first := simulated.peek()) is not None:
        simulated.pop(first)
        queue.append(first)
    return queue, [int(req.rid) for req in reqs]


@pytest.mark.parametrize("policy", sorted(STOCK_QUEUES))
@given(prompts=prompts(), data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_queue_stands_as_sglangs(
    sglang: Any, policy: str, prompts: list[list[int]], data: st.DataObject
) -> None:
    """Whatever has been computed before, and in whatever order the others came."""
    rows = data.draw(st.permutations(range(len(prompts))))
    num_done = data.draw(st.integers(0, min(len(prompts), 6)))
    simulated, sglangs = _queues(sglang, policy, prompts, rows[:num_done], rows[num_done:])
    assert simulated == sglangs


def test_of_prefixes_with_as_many_waiting_the_one_computed_first_goes_first(sglang: Any) -> None:
    """However they stand in the queue; the one with more waiting goes before both."""
    prompts = [[kind] * 40 + [100 + i] for i, kind in enumerate([1, 2, 3, 1, 2, 3, 3])]
    simulated, sglangs = _queues(sglang, "dfs-weight", prompts, [2, 1, 0], [3, 4, 5, 6])
    assert simulated == sglangs == [5, 6, 4, 3]
