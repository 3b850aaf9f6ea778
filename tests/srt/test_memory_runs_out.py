"""Outputs are longer than expected and the pool is full while a prompt is computed: all are answered."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(100, 40_000) for _ in range(count)]


def _params(max_new_tokens: int, **hints: Any) -> dict[str, Any]:
    """Of an output of just this length, which is not known beforehand, as it would be with `ignore_eos`."""
    params = {"max_new_tokens": max_new_tokens, "min_new_tokens": max_new_tokens, "temperature": 0}
    return params | ({"custom_params": {"blend": hints}} if hints else {})


def _totals(engine: Any) -> dict[str, int]:
    totals: dict[str, int] = engine.get_server_info()["internal_states"][0]["blend"]["totals"]
    return totals


def test_a_mixed_step_leaves_room_for_those_that_decode() -> None:
    """SGLang computes the next chunk whatever is free, and a mixed step decodes without asking for memory."""
    import sglang_blend
    from sglang_blend.random_model import random_model_path

    rng = random.Random(0)
    num = 60
    prompts = [_tokens(rng, rng.randrange(300, 600)) for _ in range(num)]
    lengths = [rng.randrange(100, 250) for _ in range(num)]
    too_short = {"est_output_len": 50, "admission_output_len": 50, "num_observed": 9, "root_density": 1.0}
    with sglang_blend.Engine(
        model_path=random_model_path("tiny"),
        load_format="dummy",
        dtype="float32",
        enable_mixed_chunk=True,
        chunked_prefill_size=64,
        max_total_tokens=3000,
        disable_overlap_schedule=True,
    ) as engine:

        def answer(i: int) -> dict[str, Any]:
            hints = _params(lengths[i], rank=i, side=1 + i % 2, **too_short)
            return engine.generate(input_ids=prompts[i], sampling_params=hints)

        with ThreadPoolExecutor(num) as pool:
            answers = list(pool.map(answer, range(num)))
        assert [answer["meta_info"]["completion_tokens"] for answer in answers] == lengths
        assert _totals(engine)["retracted"] > 0, "the pool was full"


def test_a_request_is_not_aborted_for_memory_that_a_prompt_in_flight_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under PD-multiplexing the only decoding request finds no memory: it waits."""
    import sglang_blend
    from sglang_blend.random_model import random_model_path
    from srt import cuda_stand_ins

    class EngineOnStandIns(sglang_blend.Engine):
        run_scheduler_process_func = staticmethod(cuda_stand_ins.run_scheduler_process)

    monkeypatch.setenv(cuda_stand_ins.CHOICES_VARIABLE, str(tmp_path / "groups"))
    monkeypatch.setenv(cuda_stand_ins.TURNS_VARIABLE, "700")
    rng = random.Random(0)
    first, second, third = _tokens(rng, 100), _tokens(rng, 600), _tokens(rng, 700)
    with (
        EngineOnStandIns(
            model_path=random_model_path("tiny"),
            load_format="dummy",
            dtype="float32",
            enable_pdmux=True,
            chunked_prefill_size=-1,
            disable_overlap_schedule=True,
            max_total_tokens=1000,
        ) as engine,
        ThreadPoolExecutor(2) as pool,
    ):
        hints = {"rank": 0, "est_output_len": 50, "admission_output_len": 50, "num_observed": 9}
        decoding = pool.submit(engine.generate, input_ids=first, sampling_params=_params(800, **hints))
        while not _totals(engine)["decode_tokens"]:
            assert not decoding.done()
        prompt = pool.submit(engine.generate, input_ids=second, sampling_params=_params(4))
        assert decoding.result(120)["meta_info"]["completion_tokens"] == 800
        assert prompt.result(120)["meta_info"]["completion_tokens"] == 4
        assert _totals(engine)["retracted"] > 0, "it was in the way"
        after = pool.submit(engine.generate, input_ids=third, sampling_params=_params(4))
        assert after.result(60)["meta_info"]["completion_tokens"] == 4, "nothing is held for ever"
