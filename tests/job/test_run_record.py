"""The record of a run: what the report is made of, and never in the way of the job."""

import asyncio
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from job.echo_engine import EchoEngine
from sglang_blend.blotting import without_secrets
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.engine.messages import Ask
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.plan_facts import preview, text_of_body
from sglang_blend.job.run_record import RequestSample
from sglang_blend.request import Answer, EngineFacts, Failure

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
}  # fmt: skip


class SlowEngine(EchoEngine):
    """Has a model whose cost is known, and takes a hundredth of a second for a request."""

    def facts(self) -> EngineFacts:
        return super().facts()._replace(model_config=LLAMA)

    async def answer(self, ask: Ask) -> Answer | Failure:
        await asyncio.sleep(0.01)
        return await super().answer(ask)


def config_of(folder: Path, num_lines: int = 40) -> JobConfig:
    prompts = [f"group {i % 5} has these words before {i}" for i in range(num_lines)]
    lines = [
        {"custom_id": f"q{i}", "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt}}
        for i, prompt in enumerate(prompts)
    ]
    path = folder / "batch.jsonl"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return JobConfig(file=path)


def read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_run_leaves_its_plan_its_requests_and_its_end(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    OfflineJob(config, engine_argv=["--api-key", "letmein", "--tp-size", "2"]).run(SlowEngine)
    (plan,), (requests,), (end,) = (
        [line[kind] for line in read(resolve_files(config).runs_file) if kind in line]
        for kind in ("plan", "requests", "end")
    )
    assert plan["requests"] == requests["num_requests"] == end["ok"] == 40
    assert plan["order"] in plan["predicted"]["orders"]
    assert 0 < plan["bounds"]["optimum_s"] <= plan["bounds"]["sequential_s"]
    assert sum(plan["density_histogram"]["num_requests"]) == 40
    top = plan["prefixes"][0]
    assert top["requests"] * top["prefix_len"] > top["saved_tokens"] > 0
    assert plan["prefixes"][1]["preview"].startswith("group ")
    sample = requests["sample"]
    assert min(sample["latency_s"]) >= 0.009, "the engine sleeps 10 ms, by a clock that ticks each"
    assert requests["longest_latency_s"] == pytest.approx(max(sample["latency_s"]), abs=1e-4)
    assert sorted(sample["rank"]) == list(range(40))
    assert set(sample["output_len"]) == {1}
    assert set(sample["max_new_tokens"]) == {8}
    assert end["engine_argv"] == ["--api-key", "***", "--tp-size", "2"]
    assert end["seconds"]["generate"] > 0


def test_a_resumed_job_adds_its_run_and_a_new_one_begins_anew(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    files = resolve_files(config)
    with pytest.raises(Exception, match="the engine died"):
        OfflineJob(config).run(lambda: SlowEngine(dies_after=10))
    OfflineJob(config).run(SlowEngine)
    runs = [line["plan"]["requests"] for line in read(files.runs_file) if "plan" in line]
    assert runs[0] == 40
    assert 0 < runs[1] < 40
    OfflineJob(replace(config, overwrite=True)).run(SlowEngine)
    assert sum("plan" in line for line in read(files.runs_file)) == 1


def test_records_that_cannot_be_written_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    resolve_files(config).runs_file.mkdir()
    monkeypatch.setattr(logging.getLogger("sglang_blend"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        summary = OfflineJob(config).run(SlowEngine)
    assert (summary.ok, summary.complete) == (40, True)
    assert any("batch.runs.jsonl" in record.getMessage() for record in caplog.records)


def test_a_sample_is_bounded_and_its_totals_are_of_all_requests() -> None:
    sample = RequestSample(size=100)
    for number in range(5000):
        sample.add(number, number / 1000, math.nan, 1, 1, 1, 1, 1)
    found = sample.to_json()
    assert found["num_requests"] == 5000
    assert found["longest_latency_s"] == 4.999
    assert found["mean_latency_s"] == pytest.approx(2.4995)
    submitted = found["sample"]["submitted_s"]
    assert len(submitted) == len(set(submitted)) == 100
    assert 1500 < sum(submitted) / 100 < 3500, "drawn from all of the run"
    assert found["sample"]["rank"] == [None] * 100


def test_a_preview_is_what_two_prompts_share_shortened_in_the_middle() -> None:
    assert preview("same words, one end", "same words, another") == "same words,"
    shown = preview("a" * 500 + "b" * 500 + "1", "a" * 500 + "b" * 500 + "2")
    assert shown.startswith("aaa")
    assert shown.endswith("bbb")
    assert len(shown) < 200


def test_every_kind_of_body_has_a_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:..."}}
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [image]}]
    assert text_of_body({"messages": chat}) == "system: Be brief.\nuser: [image_url]"
    assert text_of_body({"prompt": [1, 2, 3]}) == "1 2 3"
    assert text_of_body({"input": "hello"}) == "hello"
    assert text_of_body({"messages": [{"role": "assistant", "content": None}, 5]}) == "assistant: "


def test_keys_are_not_shown() -> None:
    argv = ["--admin-api-key=letmein", "--max-total-tokens", "4000", "--ssl-keyfile-password", "x"]
    assert without_secrets(argv) == ["--admin-api-key=***", *argv[1:4], "***"]


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [
        (
            "--x-config",
            '{"secret_key": "hush", "n": [{"apiKey": "hush"}]}',
            '{"secret_key":"***","n":[{"apiKey":"***"}]}',
        ),
        ("--x-config", '{"eos_token": "</s>", "max_tokens": 5}', '{"eos_token":"</s>","max_tokens":5}'),
        ("--otlp-traces-endpoint", "https://u:hush@host/v1", "https://host/v1"),
        ("--model-path", "s3://KEY:hush@bucket/model", "s3://bucket/model"),
        ("--file-storage", "https://host/a?X-Amz-Signature=hush&b=1", "https://host/a"),
        ("--kv-events-config", '{"url": "https://u:hush@h/x"}', '{"url":"https://h/x"}'),
        ("--hf-token", "hush", "***"),
    ],
)
def test_what_is_secret_inside_a_value_is_not_shown(flag: str, value: str, shown: str) -> None:
    assert without_secrets([flag, value]) == [flag, shown]
    assert without_secrets([f"{flag}={value}"]) == [f"{flag}={shown}"]
