"""What one prefill pass asks of the memory, on SGLang's simulated radix cache: no engine."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from sglang_blend.core.request import Side
from sglang_blend.scheduling.hints import HINTS_KEY, Hints
from srt.simulated_pool import allocator

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

    from sglang_blend.srt.policy import BlendSchedulePolicy

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

POOL, CHUNK, NUM_DECODING, OUTPUT = 20_000, 512, 12, 20


@pytest.fixture(scope="module")
def args() -> Any:
    """Of an engine on the demo model, in mixed chunk."""
    from sglang.srt.server_args import set_global_server_args_for_scheduler

    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    args = server_args(["--model-path", str(demo_model_path()), "--overlap", "mixed"])
    set_global_server_args_for_scheduler(args)
    return args


def request(number: int, prompt_len: int, density: float) -> Req:
    """No two prompts begin alike; its output is as long as the plan says."""
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    hints = Hints(number, Side.LEFT, OUTPUT, OUTPUT, 1, density, density)
    params = SamplingParams(max_new_tokens=40, custom_params={HINTS_KEY: hints.to_json()})
    params.normalize(None)
    return Req(f"r{number}", "", array("q", range(number * 5000, number * 5000 + prompt_len)), params)


def tokens_to_come(args: Any, prompts: list[int], num_decoding: int, density: float = 1e6) -> list[float]:
    """What each of these requests, all of them in one pass, is expected to add until its end."""
    from sglang.srt.mem_cache.radix_cache import RadixCache

    from sglang_blend.srt.policy import BlendSchedulePolicy

    pool = allocator(POOL)
    tree = RadixCache.create_simulated(mock_allocator=pool)
    policy: BlendSchedulePolicy = BlendSchedulePolicy(
        "dual-scan", tree, False, False, False, server_args=args
    )
    queue = [request(number, prompt_len, density) for number, prompt_len in enumerate(prompts)]
    policy.calc_priority(queue)
    batch = SimpleNamespace(reqs=[])
    adder = policy.get_prefill_adder_class()(1, tree, pool, batch, 0.5, 16384, CHUNK, num_decoding)
    asked = []
    for req in queue:
        req.init_next_round_input(tree)
        adder.add_one_req(req, False, None)
        asked.append(adder._asked[1])
    return asked


def test_a_prompt_in_mixed_chunk_is_computed_while_others_decode(args):
    """A pass has the chunk less a token for each that decodes; the first pass is the step itself."""
    whole = CHUNK - NUM_DECODING
    extra = [
        tokens_to_come(args, [prompt_len], NUM_DECODING)[0] - OUTPUT
        for prompt_len in (1, whole, whole + 1, 3 * whole, 3 * whole + 1)
    ]
    assert extra == [0, 0, 1, 2, 3]


def test_whole_passes_count_and_not_what_this_one_has_left(args):
    """The one before has taken most of this pass; the next has all of its own."""
    whole = CHUNK - NUM_DECODING
    first, second = tokens_to_come(args, [whole - 50, 2 * whole], NUM_DECODING)
    assert (first, second) == (OUTPUT, OUTPUT + 1)


def test_a_paced_pass_is_a_whole_one(args):
    """A plan that wants less prefill beside decode has more steps for a prompt."""
    (dense,) = tokens_to_come(args, [2000], NUM_DECODING)
    (sparse,) = tokens_to_come(args, [2000], NUM_DECODING, density=5.0)
    assert OUTPUT < dense < sparse


def test_without_mixed_chunk_nobody_decodes_meanwhile(args):
    """The prompts run first, whatever they take."""
    assert tokens_to_come(args, [5 * CHUNK], 0) == [OUTPUT]
