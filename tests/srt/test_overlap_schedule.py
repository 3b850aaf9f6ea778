"""SGLang's overlap schedule, the default on a GPU, under our policy: the next step is planned while one runs.

On the CPU a job leaves it off, so here it is asked for. A request's output is known a step late, also when
it is retracted and what it computed stays in the cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from srt.greedy import greedy_answers

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

CLERK = "You are a careful clerk who answers every question in whole sentences and never leaves one out. "
PROMPTS = [f"{CLERK}Question {i}: what do you know about the number {i}?" for i in range(10)]
NUM_TOKENS = 40
# Admits as if outputs ended at once, so that the pool runs full.
OPTIONS = {"peak_admission": False}


@pytest.fixture(scope="module", params=[False, True], ids=["separate steps", "mixed chunk"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """With a pool that cannot hold all outputs. In float32, because answers are compared."""
    import sglang_blend

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_BLEND_OPTIONS", json.dumps(OPTIONS))
        patch.setenv("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION", "1")
        engine = sglang_blend.Engine(
            dtype="float32",
            disable_overlap_schedule=False,
            enable_mixed_chunk=request.param,
            schedule_conservativeness=0.01,
            chunked_prefill_size=64,
            max_total_tokens=260,
        )
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return greedy_answers(PROMPTS, NUM_TOKENS, ignore_eos=True)


def test_answers_are_those_of_the_model_also_after_retractions(engine: Any, expected: list[str]) -> None:
    """And nothing is left in the pool."""
    assert not engine.server_args.disable_overlap_schedule
    greedy = {"max_new_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
    answers = engine.generate(PROMPTS, greedy)
    assert [answer["text"] for answer in answers] == expected
    assert engine.get_server_info()["internal_states"][0]["blend"]["totals"]["retracted"] > 0
    give_up = time.monotonic() + 30
    while not engine.flush_cache().success:
        assert time.monotonic() < give_up, "requests are left"
        time.sleep(0.05)
