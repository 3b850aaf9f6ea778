"""SGLang's PD-multiplexing loop under our policy, on stand-ins for CUDA streams: what it does, not how fast.

Prompts are computed some layers at a time while other requests decode; a request whose prompt is being
computed is in no running batch, and whoever asks has to find it all the same (patch 0010).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sglang_blend.scheduling.step_records import read_steps
from srt.cuda_stand_ins import CHOICES_VARIABLE, NUM_SMS
from srt.greedy import greedy_answers

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

PREFIXES = [
    "You are a careful clerk who answers in one word, always the same, without any explanation. " * 4,
    "The following is a list of facts about rivers, seas and mountains that children learn at school. " * 4,
]
LONG = "word " * 1500


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """In float32, because answers are compared; some layers a turn, because prompts here are short."""
    import sglang_blend
    from sglang_blend.srt.options import VARIABLE
    from srt.cuda_stand_ins import run_scheduler_process

    class EngineOnStandIns(sglang_blend.Engine):
        run_scheduler_process_func = staticmethod(run_scheduler_process)

    directory = tmp_path_factory.mktemp("pdmux")
    pdmux_config = directory / "pdmux.yaml"
    pdmux_config.write_text("sm_group_num: 8\nsplit_forward_token_budget: 1500\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOICES_VARIABLE, str(directory / "groups"))
        patch.setenv("SGLANG_BLEND_HARDWARE", str(_calibrated(directory / "hardware.json")))
        patch.setenv(VARIABLE, json.dumps({"stats_file": str(directory / "steps")}))
        engine = EngineOnStandIns(
            dtype="float32",
            enable_pdmux=True,
            chunked_prefill_size=-1,
            disable_overlap_schedule=True,
            pdmux_config_path=str(pdmux_config),
            max_total_tokens=4000,
        )
    engine.groups, engine.steps = directory / "groups", directory / "steps"
    yield engine
    engine.shutdown()


def _calibrated(path: Path) -> Path:
    """A record that says decode gains from every multiprocessor, so that it is given many."""
    from sglang_blend.cost.hardware import hardware

    record = json.loads(hardware("cpu").to_json())
    record["measured"] = {
        "gemm_tokens": [1, 1024],
        "gemm_flop_per_s": [5e10, 5e11],
        "prefill_attention_flop_per_s": 1e11,
        "decode_attention_bytes_per_s": 5e9,
        "sm_shares": [20 / NUM_SMS, 60 / NUM_SMS],
        "sm_share_bandwidth": [20 / NUM_SMS, 60 / NUM_SMS],
    }
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def prefill_in_flight(engine: Any) -> Iterator[Future[dict[str, Any]]]:
    """The answer to come of a request whose long prompt is being computed: `rid` "long"."""
    before = _admitted(engine)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(engine.generate, LONG, {"max_new_tokens": 4, "temperature": 0}, rid="long")
        _wait_until(lambda: _admitted(engine) > before)
        assert not answer.done(), "the prompt takes seconds"
        yield answer


def _admitted(engine: Any) -> int:
    return engine.get_server_info()["internal_states"][0]["blend"]["totals"]["admitted"]


def _wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_answers_are_those_of_the_model(engine: Any) -> None:
    """With prefixes shared, prompts in pieces and requests joining those that decode."""
    prompts = [f"{PREFIXES[i % 2]} Question {i}: what is {i} + {i}?" for i in range(8)]
    answers = engine.generate(prompts, {"max_new_tokens": 8, "temperature": 0})
    assert [answer["text"] for answer in answers] == greedy_answers(prompts, 8)
    assert sum(answer["meta_info"]["cached_tokens"] for answer in answers) > 6 * 60


def test_the_device_is_divided_by_the_work_left(engine: Any) -> None:
    """A prompt beside little decode: stock goes by the number of decoding requests and gives them the least.

    Decode of one request takes long here, the prompt does not.
    """
    engine.groups.write_text("")
    with ThreadPoolExecutor(2) as pool:
        before = _admitted(engine)
        decoding = pool.submit(engine.generate, "Once", {"max_new_tokens": 120, "ignore_eos": True})
        _wait_until(lambda: _admitted(engine) > before)
        prompt = pool.submit(engine.generate, PREFIXES[0] + "And then?", {"max_new_tokens": 2})
        assert decoding.result(60)["meta_info"]["completion_tokens"] == 120
        prompt.result(60)
    groups = [int(line) for line in engine.groups.read_text().split()]
    divided = [group for group in groups if 0 < group < 7]
    assert divided, groups
    assert set(divided) == {6}, "decode has the largest share that SGLang offers"
    assert {0, 7} <= set(groups), "alone, each has all of it"
    _admitted(engine)  # asked, the scheduler writes what it has
    (steps,) = read_steps(engine.steps)
    shares = {record["decode_sm_share"] for record in steps.records}
    assert {0.0, 1.0} < shares, "a report shows who had all of it, and the divisions"


def test_the_pool_is_not_emptied_under_a_prompt_in_flight(
    engine: Any, prefill_in_flight: Future[dict[str, Any]]
) -> None:
    """Only when it is done."""
    assert not engine.flush_cache().success
    assert len(prefill_in_flight.result(60)["output_ids"]) == 4
    _wait_until(lambda: engine.flush_cache().success)


def test_a_prompt_in_flight_can_be_aborted(engine: Any, prefill_in_flight: Future[dict[str, Any]]) -> None:
    """It ends when its prompt is done, with nothing left in the pool."""
    engine.tokenizer_manager.abort_request("long")
    assert prefill_in_flight.result(60)["meta_info"]["finish_reason"]["type"] == "abort"
    _wait_until(lambda: engine.flush_cache().success)
    assert engine.generate("After that", {"max_new_tokens": 3})["meta_info"]["cached_tokens"] == 0


def test_a_pause_holds_a_prompt_in_flight(engine: Any, prefill_in_flight: Future[dict[str, Any]]) -> None:
    """Nothing is answered while it lasts, and everything after it."""
    from sglang.srt.managers.io_struct import ContinueGenerationReqInput, PauseGenerationReqInput

    manager = engine.tokenizer_manager
    asyncio.run(_in(engine, manager.pause_generation(PauseGenerationReqInput(mode="in_place"))))
    time.sleep(4)
    assert not prefill_in_flight.done()
    asyncio.run(_in(engine, manager.continue_generation(ContinueGenerationReqInput())))
    assert len(prefill_in_flight.result(60)["output_ids"]) == 4


async def _in(engine: Any, call: Any) -> Any:
    return await engine.loop.run(call)
