"""What the policy tells of its work, on SGLang's simulated radix cache: no engine."""

from __future__ import annotations

import os
from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sglang_blend.core.request import Side
from sglang_blend.cost.sm_split import best_share
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from sglang_blend.scheduling.request_state import RequestState
from srt.simulated_pool import allocator

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

    from sglang_blend.srt.policy import BlendSchedulePolicy

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

POOL = 20_000


@pytest.fixture(scope="module")
def args() -> Any:
    """Of an engine on the demo model."""
    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    return server_args(["--model-path", str(demo_model_path()), "--overlap", "mixed"])


@pytest.fixture
def policy(args: Any) -> BlendSchedulePolicy:
    """With an empty cache and nothing waiting."""
    from sglang.srt.mem_cache.radix_cache import RadixCache

    from sglang_blend.srt.policy import BlendSchedulePolicy

    pool = allocator(POOL)
    tree = RadixCache.create_simulated(mock_allocator=pool)
    return BlendSchedulePolicy("dual-scan", tree, False, False, False, server_args=args)


def _request(number: int, density: float) -> Req:
    """100 tokens, no two alike; 20 to come, observed in another request."""
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    hints = Hints(
        rank=number,
        side=Side.LEFT,
        est_output_len=20,
        admission_output_len=20,
        num_observed=1,
        density=density,
        root_density=density,
    )
    params = SamplingParams(max_new_tokens=40, custom_params={HINTS_KEY: hints.to_json()})
    params.normalize(None)
    return Req(f"r{number}", "", array("q", range(number * 1000, number * 1000 + 100)), params)


def waiting(policy: BlendSchedulePolicy, rid: str) -> RequestState:
    """The request of this name, which waits."""
    state = policy.scheduler.waiting(rid)
    assert state is not None, rid
    return state


def _start(policy: BlendSchedulePolicy, req: Req) -> None:
    """It is admitted to a pass."""
    state = policy.scheduler.waiting(req.rid)
    assert state is not None, req.rid
    req.init_next_round_input(policy.tree_cache)
    policy.scheduler.admit(state, policy.host.match(state))
    policy.on_admitted()


def test_what_has_finished_is_no_work_that_is_left(policy: BlendSchedulePolicy) -> None:
    """Nobody asks for a pass while nothing waits, and the GPU is divided all the same."""
    from sglang.srt.managers.schedule_batch import FINISH_LENGTH

    queue = [_request(number, 1.0) for number in range(2)]
    policy.calc_priority(queue)
    for req in queue:
        _start(policy, req)
    both = policy.split_work()
    queue[0].finished_reason = FINISH_LENGTH(20)
    one = policy.split_work()
    assert both is not None
    assert one is not None
    assert one.kv_read_s == pytest.approx(both.kv_read_s / 2)


def test_the_gpu_is_divided_only_where_it_was_calibrated(policy: BlendSchedulePolicy) -> None:
    """Otherwise SGLang's own choice stands; stream groups 0 and the last are not divisions."""
    from sglang_blend.srt.sm_groups import stream_group

    counts = [(132, 0), (100, 32), (68, 64), (0, 132)]
    policy.calc_priority([_request(0, 1.0)])
    assert stream_group(policy, counts) is None
    measured = SimpleNamespace(bandwidth_gain=2.5)
    cost: Any = SimpleNamespace(
        token_s=1e-5,
        decode_token_s=1.1e-5,
        kv_read_s=(1e-8, 0.0),
        weight_s=lambda n: 1e-3,
        hardware=SimpleNamespace(measured=measured),
    )
    policy.scheduler.cost = cost
    work = policy.split_work()
    assert work is not None
    expected = 1 + best_share(work, (32 / 132, 64 / 132), 2.5)
    assert stream_group(policy, counts) == expected
    assert stream_group(policy, counts[:2]) is None


def test_a_prefill_that_runs_some_layers_at_a_time_is_one_step() -> None:
    """PD-multiplexing calls `run_batch` for each group of layers."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    from sglang_blend.srt import plugin

    seen: list[int] = []
    stats = SimpleNamespace(on_step=lambda batch: seen.append(batch.split_index), on_result=lambda: None)
    scheduler = SimpleNamespace(blend_stats=stats, blend_tick=lambda: None)
    for index in (0, 8, 16):
        batch = SimpleNamespace(forward_mode=ForwardMode.SPLIT_PREFILL, split_index=index)
        assert plugin._run_batch(lambda scheduler, batch: "done", scheduler, batch) == "done"
    assert seen == [0]


def test_what_a_retracted_request_computed_is_wanted_at_once(
    args: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is back in the queue; a retraction evicts for one step, unless the user says more."""
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_blend.srt.policy import BlendSchedulePolicy
    from sglang_blend.srt.radix_cache import BlendRadixCache

    pool = allocator(POOL)
    for given, expected in ((None, "1"), ("7", "7")):
        monkeypatch.setenv("SGLANG_RETRACT_DECODE_STEPS", given or "")  # so that it is put back in any case
        if given is None:
            monkeypatch.delenv("SGLANG_RETRACT_DECODE_STEPS")
        tree = BlendRadixCache(CacheInitParams(False, None, pool, 1))
        policy = BlendSchedulePolicy("dual-scan", tree, False, False, False, server_args=args)
        assert os.environ["SGLANG_RETRACT_DECODE_STEPS"] == expected
    request = _request(0, 1.0)
    policy.calc_priority([request])
    _start(policy, request)
    assert tree.node_of("r0") is None
    request.output_ids.append(5)
    assert tree.on_retracted is not None
    tree.on_retracted(request)
    assert tree.node_of("r0") is not None
    tree.check_integrity()


def test_a_request_that_is_aborted_after_its_retraction_holds_nothing(policy: BlendSchedulePolicy) -> None:
    """It is gone from the queue before the next pass sees it there."""
    request = _request(0, 1.0)
    policy.calc_priority([request])
    _start(policy, request)
    request.reset_for_retract()
    policy.calc_priority([])
    assert len(policy.scheduler.running) == 0
    assert sum(policy.scheduler.accounts.used.values()) == 0


def test_a_request_that_leaves_for_want_of_memory_holds_nothing(policy: BlendSchedulePolicy) -> None:
    """`retract_decode` aborts the last one: its KV is gone, and nothing says that it has finished."""
    request = _request(0, 1.0)
    policy.calc_priority([request])
    _start(policy, request)
    request.to_finish = object()
    request.req_pool_idx = None
    policy.settle()
    assert len(policy.scheduler.running) == 0


def test_a_name_can_be_used_again_after_an_abort(policy: BlendSchedulePolicy) -> None:
    """The new request runs, whether the first one waited or ran, and the first one never comes back."""
    first, again, third = _request(0, 1.0), _request(0, 1.0), _request(0, 1.0)
    policy.calc_priority([first, _request(1, 1.0)])
    queue = [_request(1, 1.0), again, _request(2, 1.0)]
    policy.calc_priority(queue)
    assert waiting(policy, "r0").handle is again
    assert [req for req in queue if req.rid == "r0"] == [again]
    _start(policy, again)
    policy.calc_priority([third])
    assert waiting(policy, "r0").handle is third
    assert len(policy.scheduler.running) == 0


def test_without_a_radix_cache_nobody_leads(args: Any) -> None:
    """`--disable-radix-cache`: a match has no node."""
    from sglang.srt.managers.schedule_policy import AddReqResult
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.chunk_cache import ChunkCache
    from sglang.srt.server_args import set_global_server_args_for_scheduler

    from sglang_blend.srt.policy import BlendSchedulePolicy

    set_global_server_args_for_scheduler(args)
    pool = allocator(POOL)
    cache = ChunkCache(CacheInitParams(True, None, pool, 1))
    policy = BlendSchedulePolicy("dual-scan", cache, False, False, False, server_args=args)
    request = _request(0, 1.0)
    policy.calc_priority([request])
    adder = policy.get_prefill_adder_class()(1, cache, pool, SimpleNamespace(reqs=[]), 0.5, 16384, 8192, 0)
    request.init_next_round_input(cache)
    assert adder.add_one_req(request, False, None) == AddReqResult.CONTINUE
    assert adder.can_run_list == [request]


def test_a_flushed_cache_begins_another_job(args: Any) -> None:
    """What was learnt of output lengths goes with what was cached."""
    from sglang.srt.managers.schedule_batch import FINISH_LENGTH
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_blend.srt.policy import BlendSchedulePolicy
    from sglang_blend.srt.radix_cache import BlendRadixCache

    tree = BlendRadixCache(CacheInitParams(False, None, allocator(POOL), 1))
    policy = BlendSchedulePolicy("dual-scan", tree, False, False, False, server_args=args)
    expected = []
    for number in range(60):
        request = _request(number, 1.0)
        request.sampling_params.custom_params = None
        policy.calc_priority([request])
        expected.append(waiting(policy, request.rid).mean_len)
        if number == 58:
            tree.reset()
        elif number < 58:
            _start(policy, request)
            request.output_ids += array("q", [1, 2])
            request.finished_reason = FINISH_LENGTH(2)
    assert expected[57] < expected[0] / 3
    assert expected[59] == expected[0]
