"""`sglang_blend.Engine` on the demo model: beside SGLang's own code on the same engine, and where it differs.

`stock(engine, ...)` is the `generate` of SGLang's own class on the engine under test: one start serves both.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import sglang_blend
from sglang_blend.core import RequestTable, build_prefix_tree
from sglang_blend.errors import ConfigError, EngineError
from sglang_blend.request import BatchLine

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

PREFIXES = [
    "You are a careful clerk who answers in one word, always the same, without any explanation. " * 3,
    "The following is a list of facts about rivers, seas and mountains that children learn at school. " * 3,
    "Translate what follows into French, then into German, and say nothing else whatsoever, please. " * 3,
]
GREEDY = {"max_new_tokens": 5, "temperature": 0}
ENDLESS = {"max_new_tokens": 4000, "ignore_eos": True}
PROMPTS = [f"{PREFIXES[i % 3]} Question {i}:" for i in np.random.default_rng(0).permutation(24).tolist()]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def documented(section: str) -> list[str]:
    """The Python blocks of a section of docs/python.md."""
    text = DOCS.read_text()
    start = text.index(f"\n## {section}\n")
    return re.findall(r"```python\n(.*?)```", text[start : text.find("\n## ", start + 1)], re.DOTALL)


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Made by the first block of the documentation.

    Few requests are with its scheduler at a time, so that the order of feeding decides. In float32, because
    answers are compared whose batches differ in shape.
    """
    namespace: dict[str, Any] = {}
    exec(documented("Engine")[0].replace("Engine(", 'Engine(dtype="float32", ', 1), namespace)
    yield namespace["engine"]
    namespace["engine"].shutdown()


def stock(engine: Any, *args: Any, **kwargs: Any) -> Any:
    return super(sglang_blend.Engine, engine).generate(*args, **kwargs)


def shape(value: Any) -> Any:
    """Keys, lengths and types, without what differs from run to run."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key != "cached_tokens_details"}
    if isinstance(value, list | tuple):
        return [shape(item) for item in value]
    return type(value).__name__


def counters(engine: Any) -> dict[str, int]:
    state: dict[str, Any] = engine.get_server_info()["internal_states"][0]["blend"]
    return state["policy"]["counters"] | {"num_waiting": state["policy"]["num_waiting"]}


def num_changes(values: list[str]) -> int:
    return sum(a != b for a, b in itertools.pairwise(values))


def assert_idle(engine: Any) -> None:
    """Nothing runs or waits any more."""
    give_up = time.monotonic() + 30
    while not engine.flush_cache().success and time.monotonic() < give_up:
        time.sleep(0.1)
    assert engine.flush_cache().success
    assert not engine.tokenizer_manager.rid_to_state


def test_a_list_is_answered_in_its_order_as_stock_does(engine: Any) -> None:
    engine.flush_cache()
    before = counters(engine)
    ours = engine.generate(PROMPTS, GREEDY)
    assert counters(engine)["plans"] == before["plans"], "the scheduler had to plan: hints were missing"
    stocks = stock(engine, PROMPTS, GREEDY)
    assert counters(engine)["plans"] > before["plans"]
    assert [a["output_ids"] for a in ours] == [a["output_ids"] for a in stocks]
    assert shape(ours) == shape(stocks)


def test_a_list_is_fed_in_planned_order(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that begin alike reach the scheduler together, and what they share is computed once."""
    manager, sent = engine.tokenizer_manager, []
    send = manager._send_one_request

    def note(request: Any) -> None:
        sent.append(int(request.rid.removeprefix("number ")))
        send(request)

    monkeypatch.setattr(manager, "_send_one_request", note)
    engine.flush_cache()
    answers = engine.generate(PROMPTS, GREEDY, rid=[f"number {i:02d}" for i in range(24)])
    assert sorted(sent) == list(range(24))
    assert num_changes([PROMPTS[i][:20] for i in sent]) <= 5 < num_changes([p[:20] for p in PROMPTS])
    ids = [manager.tokenizer.encode(prompt) for prompt in PROMPTS]
    computed = sum(a["meta_info"]["prompt_tokens"] - a["meta_info"]["cached_tokens"] for a in answers)
    tree = build_prefix_tree(RequestTable.from_lists(ids), page_size=1)
    assert computed <= 1.05 * tree.num_unique_tokens < 0.3 * sum(map(len, ids))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"sampling_params": [{**GREEDY, "max_new_tokens": 1 + i % 4} for i in range(24)]},
        {"sampling_params": {**GREEDY, "n": 2}, "rid": [f"rid-{i:03d}" for i in range(24)]},
        {"sampling_params": GREEDY, "return_logprob": [i % 2 == 0 for i in range(24)], "top_logprobs_num": 2},
        {"sampling_params": GREEDY, "return_logprob": True, "logprob_start_len": 3, "token_ids_logprob": [5]},
        {"sampling_params": GREEDY, "image_data": [None] * 24, "priority": 1},
        {"sampling_params": GREEDY, "image_data": ["not looked at by a model of text"] * 24},
        {"sampling_params": {**GREEDY, "custom_params": {"mine": 1}}, "session_id": "one"},
    ],
    ids=["params", "n", "logprobs", "input logprobs", "no images", "images", "custom params"],
)
def test_the_arguments_of_lists_give_what_stock_gives(engine: Any, kwargs: dict[str, Any]) -> None:
    ours, stocks = engine.generate(PROMPTS, **kwargs), stock(engine, PROMPTS, **kwargs)
    assert [a["output_ids"] for a in ours] == [a["output_ids"] for a in stocks]
    assert shape(ours) == shape(stocks)
    if rids := kwargs.get("rid"):
        assert [a["meta_info"]["id"].rpartition("_")[0] for a in ours] == [r for r in rids for _ in range(2)]


def test_token_ids_are_answered_like_the_texts_they_stand_for(engine: Any) -> None:
    ids = [engine.tokenizer_manager.tokenizer.encode(prompt) for prompt in PROMPTS]
    texts = engine.generate(PROMPTS, GREEDY)
    assert [a["text"] for a in engine.generate(input_ids=ids, sampling_params=GREEDY)] == [
        a["text"] for a in texts
    ]


def test_one_prompt_gives_one_dict(engine: Any) -> None:
    assert (
        engine.generate(PROMPTS[0], GREEDY)["output_ids"] == stock(engine, PROMPTS[0], GREEDY)["output_ids"]
    )
    assert "context length" in engine.generate("word " * 9000, on_error="return")["error"]["message"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "word " * 9000}, "context_length_exceeded"),
    ({"prompt": ""}, "invalid_value"),
    ({"prompt": "hot", "sampling_params": {"temperature": -1}}, "invalid_value"),
    ({"prompt": "unknown", "sampling_params": {"no_such_parameter": 1}}, "invalid_value"),
    ({"prompt": "grammar", "sampling_params": {"regex": "("}}, "invalid_value"),
]


def test_failing_prompts_are_returned_in_their_places(engine: Any) -> None:
    """Some fail before they run, one in the scheduler; the others are answered as without them."""
    prompts = [bad["prompt"] for bad, _ in BAD] + PROMPTS
    params = [{**GREEDY, **bad.get("sampling_params", {})} for bad, _ in BAD] + [GREEDY] * len(PROMPTS)
    answers = engine.generate(prompts, params, on_error="return", rid=[f"r{i:02d}" for i in range(29)])
    for i, (_, code) in enumerate(BAD):
        assert answers[i]["error"]["code"] == code, answers[i]
        assert answers[i]["meta_info"] == {"id": f"r{i:02d}"}
        assert "text" not in answers[i]
    good = engine.generate(PROMPTS, GREEDY)
    assert [a["text"] for a in answers[len(BAD) :]] == [a["text"] for a in good]


def test_a_token_id_that_the_model_has_not_costs_its_prompt(engine: Any) -> None:
    """SGLang looks it up nowhere before the scheduler, which it ends."""
    vocab_size = engine.tokenizer_manager.model_config.vocab_size
    answers = engine.generate(
        input_ids=[[504], [vocab_size], [-1]], sampling_params=GREEDY, on_error="return"
    )
    assert ["error" in answer for answer in answers] == [False, True, True]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_otherwise_a_failing_prompt_raises_and_the_engine_lives(engine: Any, number: int) -> None:
    bad, _ = BAD[number]
    params = [{**GREEDY, **bad.get("sampling_params", {})}] + [GREEDY] * len(PROMPTS)
    with pytest.raises((ValueError, TypeError)):
        engine.generate([bad["prompt"], *PROMPTS], params)
    assert_idle(engine)


def test_a_list_streams_as_stock_does(engine: Any) -> None:
    """Chunks of all prompts as they come, each with the index of its prompt."""
    last: dict[int, Any] = {}
    for chunk in engine.generate(PROMPTS, GREEDY, stream=True):
        last[chunk.pop("index")] = chunk
    assert [last[i]["text"] for i in range(24)] == [a["text"] for a in engine.generate(PROMPTS, GREEDY)]
    stocks = {chunk.pop("index"): chunk for chunk in stock(engine, PROMPTS, GREEDY, stream=True)}
    assert shape([last[i] for i in range(24)]) == shape([stocks[i] for i in range(24)])


def test_a_stream_left_early_leaves_nothing_running(engine: Any) -> None:
    chunks = engine.generate(PROMPTS, ENDLESS, stream=True)
    next(chunks)
    chunks.close()
    assert_idle(engine)


def test_a_notebook_needs_no_tricks(engine: Any) -> None:
    """Every kind of call works where an event loop runs, and again in the next loop."""

    async def cell() -> list[list[str]]:
        blocking = engine.generate(PROMPTS, GREEDY)
        awaited, beside = await asyncio.gather(
            engine.async_generate(PROMPTS, GREEDY), engine.async_generate(PROMPTS[0], GREEDY)
        )
        streamed: dict[int, Any] = {}
        async for chunk in await engine.async_generate(PROMPTS, GREEDY, stream=True):
            streamed[chunk["index"]] = chunk
        awaited_scores = await engine.async_score("Is it?", [" Yes", " No"], label_token_ids=[504, 505])
        scores = engine.score("Is it?", [" Yes", " No"], label_token_ids=[504, 505])
        assert np.allclose(scores.scores, awaited_scores.scores, rtol=1e-3)
        assert_idle(engine)  # empties the cache, which SGLang refuses while its last step is in flight
        return [
            [a["text"] for a in blocking],
            [a["text"] for a in awaited],
            [beside["text"]] + [streamed[i]["text"] for i in range(1, 24)],
        ]

    for _ in range(2):
        blocking, awaited, streamed = asyncio.run(cell())
        assert blocking == awaited == streamed


def test_a_cancelled_task_aborts_its_requests(engine: Any) -> None:
    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.async_generate(PROMPTS, ENDLESS), 1)

    asyncio.run(impatient())
    assert_idle(engine)


def test_an_interrupted_list_leaves_the_engine_usable(engine: Any) -> None:
    """A terminal and a notebook send the signal to the engine's processes too."""

    def interrupt_all() -> None:
        for pid in (*engine.get_all_child_pids(), os.getpid()):
            os.kill(pid, signal.SIGINT)

    threading.Timer(1, interrupt_all).start()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, ENDLESS)
    assert_idle(engine)
    assert len(engine.generate(PROMPTS, GREEDY)) == 24


def test_a_request_that_sglang_aborts_has_failed(engine: Any) -> None:
    """SGLang's answer has status 200 and the finish_reason "abort", which OpenAI's clients do not know.

    Here the grammar ends before `min_tokens`, which forbids the end: no token is left, to sample from either
    (patch 0014).
    """
    from sglang_blend.engine.messages import Ask
    from sglang_blend.srt.serving import Serving

    serving = Serving(engine.tokenizer_manager, engine.template_manager)

    async def answer_to(number: int, **params: Any) -> Any:
        line = BatchLine(1, 0, "a", "/v1/completions", {"prompt": "Hello", **params})
        prepared: Any = serving.prepare(line)
        return await serving.answer(Ask(line, prepared.token_ids, number=number))

    async def both() -> Any:
        sampled = answer_to(1, temperature=1, max_tokens=12)
        return await asyncio.gather(answer_to(0, regex="a", min_tokens=8, temperature=1), sampled)

    answer, other = asyncio.run(engine.loop.run(both()))
    assert other.status_code == 200
    error = answer.body["error"]
    assert (answer.status_code, error["type"], error["code"]) == (500, "server_error", "server_error")
    assert "aborted" in error["message"]
    assert_idle(engine)


def test_a_bar_is_drawn_on_request(engine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    engine.generate(PROMPTS, GREEDY)
    assert "24/24" not in capfd.readouterr().err
    engine.generate(PROMPTS, GREEDY, progress=True)
    assert "24/24" in capfd.readouterr().err


def test_what_else_stock_offers_works(engine: Any, tmp_path: Path) -> None:
    engine.start_profile(output_dir=str(tmp_path), activities=["CPU"], with_stack=False)
    engine.generate("Hi", GREEDY)
    engine.stop_profile()
    assert list(tmp_path.glob("*.trace.json.gz"))
    for call in (engine.encode, lambda text: engine.rerank([[text, text]])):
        with pytest.raises(ValueError, match="embedding model"):
            call("no embedding model")
    assert engine.get_server_info()["schedule_policy"] == "dual-scan"
    with pytest.raises(ConfigError, match="'raise' or 'return' is allowed"):
        engine.generate("Hi", on_error="ignore")


def test_the_documented_blocks_run(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the first, which has made the engine, and the last, which shuts it down."""
    blocks = documented("Engine")
    assert len(blocks) >= 4
    assert blocks[-1] == "engine.shutdown()\n"
    namespace = {"engine": engine, "__name__": "documented"}
    for block in blocks[1:-1]:
        exec(block, namespace)
    assert "0 " in capsys.readouterr().out


def test_shutdown_leaves_no_process_and_spares_those_of_others(engine: Any) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        pids = engine.get_all_child_pids()
        assert len(pids) == 2
        with engine:
            pass
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert other.poll() is None
        other.kill()
    engine.shutdown()
    with pytest.raises(EngineError, match="shut down"):
        engine.generate("Hi")
