"""How many passes the sharers of a prefix need, on SGLang's simulated radix cache: no engine."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from srt.simulated_pool import allocator

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

NUM, POOL = 20, 20_000


@pytest.fixture(scope="module")
def args() -> Any:
    """Of an engine on the demo model."""
    from sglang.srt.server_args import set_global_server_args_for_scheduler

    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    args = server_args(["--model-path", str(demo_model_path())])
    set_global_server_args_for_scheduler(args)
    return args


def request(number: int, shared_len: int) -> Any:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    params = SamplingParams(
        max_new_tokens=40,
        custom_params={"blend": {"rank": number, "est_output_len": 20, "num_observed": 1}},
    )
    params.normalize(None)
    own = range(1000 * (number + 1), 1000 * (number + 1) + 100)
    return Req(f"r{number}", "", array("q", [*range(shared_len), *own]), params)


def admitted(args: Any, shared_len: int, *, page_size: int = 1, disable: bool = False, ours: bool = True,
             is_kept: bool = True) -> list[int]:  # fmt: skip
    """Requests admitted in each pass, until all are.

    Args:
        is_kept: the cache holds what was computed; False is what state-space layers may come to.
    """
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

    from sglang_blend.srt.policy import BlendSchedulePolicy
    from sglang_blend.srt.radix_cache import BlendRadixCache

    pool = allocator(POOL, page_size)
    tree = (BlendRadixCache if ours else RadixCache)(CacheInitParams(disable, None, pool, page_size))
    policy = BlendSchedulePolicy("dual-scan", tree, False, False, False, server_args=args)
    queue = [request(number, shared_len) for number in range(NUM)]
    passes: list[int] = []
    while queue:
        policy.calc_priority(queue)
        adder_class = policy.get_prefill_adder_class()
        adder = adder_class(page_size, tree, pool, SimpleNamespace(reqs=[]), 0.5, 16384, 8192)
        for req in queue:
            req.init_next_round_input(tree)
            if adder.add_one_req(req, False, None).name not in ("CONTINUE", "SKIP"):
                break
        for req in adder.can_run_list:
            if is_kept and not disable:
                key = RadixKey(req.origin_input_ids).page_aligned(page_size)
                tree.insert(InsertParams(key=key, value=None))
            if ours:
                policy._on_cached(req, False)
        passes.append(len(adder.can_run_list))
        queue = [req for req in queue if req not in adder.can_run_list]
    return passes


@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_one_leads_and_the_others_follow_in_the_next_pass(args: Any, page_size: int) -> None:
    """Of 100 shared tokens the cache gives whole pages; nobody waits for the rest."""
    assert admitted(args, 100, page_size=page_size) == [1, NUM - 1]


def test_nobody_waits_for_less_than_a_page(args: Any) -> None:
    """As much as a chat template writes in front of every prompt."""
    assert admitted(args, 30, page_size=64) == [NUM]


def test_nobody_waits_where_the_cache_is_off(args: Any) -> None:
    """Without chunked prefill SGLang switches its radix cache off, instead of taking another."""
    assert admitted(args, 100, disable=True, ours=False) == [NUM]


def test_nobody_waits_for_ever_in_a_cache_that_keeps_nothing(args: Any) -> None:
    """With state-space layers a prefix is found only where SGLang kept the state."""
    assert admitted(args, 100, ours=False, is_kept=False) == [1, 1, NUM - 2]
