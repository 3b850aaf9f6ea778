"""The simulated `lpm` queue stands as SGLang's own. Needs sglang."""

from __future__ import annotations

import warnings
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_blend.core.request import RequestTable
from sglang_blend.perf.feed import LongestPrefixFeed
from sglang_blend.perf.kv_pool import KvPool
from sglang_blend.perf.simulated_job import SimulatedJob

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


@given(prompts=prompts(), data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_queue_stands_as_sglangs(sglang: Any, prompts: list[list[int]], data: st.DataObject) -> None:
    """Whatever has been computed before, and in whatever order the others came."""
    req_class, policy_class, insert_params, cache_class, key_class, params_class = sglang
    n = len(prompts)
    rows = data.draw(st.permutations(range(n)))
    num_done = data.draw(st.integers(0, min(n, 6)))
    table = RequestTable.from_lists(prompts, max_new_tokens=4)
    job = SimulatedJob.from_table(table, np.full(n, 4, np.int64))
    pool = KvPool(job.tree, 100_000, "lru")
    cache = cache_class.create_simulated()
    for row in rows[:num_done]:
        pool.acquire(row, 1)
        pool.computed(row)
        cache.insert(insert_params(key=key_class(array("q", prompts[row]))))
    waiting = []
    for row in rows[num_done:]:
        params = params_class(max_new_tokens=4)
        params.normalize(None)
        waiting.append(req_class(str(row), "", array("q", prompts[row]), params))
    policy_class("lpm", cache, False, False, False).calc_priority(waiting)
    feed = LongestPrefixFeed(np.array(rows[num_done:], np.int64), job.tree)
    feed.arrange(pool)
    queue = []
    while (row := feed.peek()) is not None:
        feed.pop(row)
        queue.append(row)
    assert queue == [int(req.rid) for req in waiting]
