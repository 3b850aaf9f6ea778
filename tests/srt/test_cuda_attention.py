"""The GPU's shared-prefix attention on stand-ins for FlashInfer's kernels: what it asks of them is right."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from srt.greedy import greedy_answers

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SYSTEM = "You are a careful clerk who answers in one word, always the same, without any explanation. "
SUBJECTS = ["The subject is rivers and seas and mountains. " * 3, "The subject is trains and ships. " * 3]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """In float32, because answers are compared."""
    import sglang_blend
    from srt.flashinfer_stand_ins import run_scheduler_process

    class EngineOnStandIns(sglang_blend.Engine):
        run_scheduler_process_func = staticmethod(run_scheduler_process)

    engine = EngineOnStandIns(
        dtype="float32", attention_backend="blend", disable_cuda_graph=True, max_total_tokens=4000
    )
    yield engine
    engine.shutdown()


def _reads(engine: Any) -> dict[str, float]:
    return engine.get_server_info()["internal_states"][0]["blend"]["attention"]


def test_prefixes_of_two_levels_are_read_once_and_the_answers_are_the_models(engine: Any) -> None:
    """A system prompt that all share, subjects that some share, and one request that shares nothing."""
    prompts = [f"{SYSTEM * 2}{SUBJECTS[i % 2]} Question {i}: what is {i} + {i}?" for i in range(8)]
    prompts.append("The capital of France is")
    answers = engine.generate(prompts, {"max_new_tokens": 8, "temperature": 0})
    assert [answer["text"] for answer in answers] == greedy_answers(prompts, 8)
    reads = _reads(engine)
    assert reads["shared_decode_steps"] > 3
    assert reads["most_readers"] == 8, "the system prompt"
    assert reads["runs"] > 1.5 * reads["shared_decode_steps"], "and its subjects"
    assert reads["decode_saved_tokens"] > reads["decode_tokens"] / 2


def test_requests_that_share_nothing_run_as_under_sglang(engine: Any) -> None:
    """Plain decode, nothing saved; steps before and after that share do not disturb it."""
    before = _reads(engine)
    prompts = ["The capital of France is", "One, two, three,", "Rivers flow into the"]
    answers = engine.generate(prompts, {"max_new_tokens": 8, "temperature": 0})
    assert [answer["text"] for answer in answers] == greedy_answers(prompts, 8)
    after = _reads(engine)
    assert after["decode_steps"] > before["decode_steps"]
    assert after["decode_saved_tokens"] == before["decode_saved_tokens"]


def test_calibration_asks_for_attention_of_one_prompt_and_of_a_decode_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the kernels are planned with is what they are timed on."""
    import flashinfer
    import torch

    from sglang_blend.srt.calibration import cuda_attention
    from sglang_blend.srt.calibration.layer import LayerShape
    from srt import flashinfer_stand_ins

    stand_ins: Any = SimpleNamespace(**vars(flashinfer))
    flashinfer_stand_ins.stand_in(stand_ins)
    monkeypatch.setattr(cuda_attention, "flashinfer", stand_ins)
    monkeypatch.setattr(cuda_attention, "_NUM_SLOTS", 200)
    monkeypatch.setattr(cuda_attention, "_WORKSPACE_BYTES", 8)
    asked = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None) -> Any:
        asked.append((len(q), len(k), causal))
        return q, q[..., 0]

    monkeypatch.setattr(flashinfer_stand_ins, "attend", attend)
    shape = LayerShape(hidden=64, intermediate=128, heads=8, kv_heads=2, head_dim=8)
    kernels = cuda_attention.FlashInferKernels(shape, torch.float32, torch.device("cpu"))
    kernels.prefill(50)
    kernels.decode(3, 60)
    kernels.decode(3, 15)
    kernels.prefill(50)
    prompt = (50, 50, True)
    assert asked == [prompt, *[(1, 60, False)] * 3, *[(1, 15, False)] * 3, prompt]
