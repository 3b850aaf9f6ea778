"""The main job end to end: real SGLang processes, the demo model, one run."""

import json
import re
from typing import Any

import jsonschema
import pytest

from sglang_blend.scheduling.step_records import read_steps
from srt.batch_run import EXAMPLE, FEATURES, MALFORMED_PREFIX, OPENAI_GUIDE, PERSON, REFUSED, BatchRun

pytestmark = pytest.mark.engine


def body_of(run: BatchRun, custom_id: str) -> dict[str, Any]:
    record = run.answers[custom_id]
    assert (record["response"]["status_code"], record["error"]) == (200, None)
    body: dict[str, Any] = record["response"]["body"]
    return body


def text_of(run: BatchRun, custom_id: str) -> str:
    choice = body_of(run, custom_id)["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def example_lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in EXAMPLE.read_text().split("\n")[:-1]]


def test_every_line_is_answered_or_refused_once(batch_run: BatchRun) -> None:
    asked = [line["custom_id"] for line in example_lines() + FEATURES + OPENAI_GUIDE]
    answered = [a for a in batch_run.answers if not a.startswith(MALFORMED_PREFIX)]
    failed = [str(e["custom_id"]) for e in batch_run.errors]
    assert sorted(answered) == sorted(asked)
    assert sorted(f for f in failed if not f.startswith(MALFORMED_PREFIX)) == sorted([*REFUSED, "broken"])


def test_the_example_of_openais_guide_runs_as_it_is(batch_run: BatchRun) -> None:
    """It names a model of OpenAI's; the one that is loaded answers, and says so."""
    for line in OPENAI_GUIDE:
        assert text_of(batch_run, line["custom_id"])
        assert body_of(batch_run, line["custom_id"])["model"] == "SmolLM2-135M-Instruct"


def test_the_summary_adds_up_with_the_answers(batch_run: BatchRun) -> None:
    summary = batch_run.summary
    usages = [a["response"]["body"]["usage"] for a in batch_run.answers.values()]
    assert (summary["ok"], summary["failed"]) == (len(batch_run.answers), len(batch_run.errors))
    assert summary["prompt_tokens"] == sum(u["prompt_tokens"] for u in usages)
    assert summary["output_tokens"] == sum(u["completion_tokens"] for u in usages)
    assert 0 < summary["generate_s"] < summary["wall_s"]
    assert batch_run.exit_code == 1, "some lines failed"
    assert "Job finished." in batch_run.screen


def test_the_steps_beside_the_output_add_up_with_the_answers(batch_run: BatchRun) -> None:
    """Every decode step gives one token; the first token of an output comes with its prefill."""
    (engine,) = read_steps(batch_run.directory / "batch.steps.jsonl")
    (end,) = [line["end"] for line in run_lines(batch_run) if "end" in line]
    totals = end["schedulers"][0]["totals"]
    for name in ("steps", "prefill_tokens", "decode_tokens", "cached_tokens", "retracted"):
        assert sum(record[name] or 0 for record in engine.records) == totals[name]
    usages = [a["response"]["body"]["usage"] for a in batch_run.answers.values()]
    assert totals["decode_tokens"] <= sum(u["completion_tokens"] for u in usages)
    assert max(record["kv_used_tokens"] or 0 for record in engine.records) <= engine.header["kv_pool_tokens"]
    starts = [record["start_s"] or 0.0 for record in engine.records]
    assert starts == sorted(starts)
    busy_s = sum((record["compute_s"] or 0) + (record["kv_read_s"] or 0) for record in engine.records)
    assert busy_s > 0


def test_the_record_of_the_run_knows_every_answered_request(batch_run: BatchRun) -> None:
    (requests,) = [line["requests"] for line in run_lines(batch_run) if "requests" in line]
    assert requests["num_requests"] == len(batch_run.answers)
    assert sum(requests["sample"]["output_len"]) == batch_run.summary["output_tokens"]
    (plan,) = [line["plan"] for line in run_lines(batch_run) if "plan" in line]
    assert plan["predicted"]["makespan_s"] > 0
    assert any("preview" in prefix and prefix["preview"] for prefix in plan["prefixes"])


def test_the_report_is_made_at_the_end(batch_run: BatchRun) -> None:
    report = batch_run.directory / "batch.report.html"
    assert str(report) in batch_run.screen
    text = report.read_text()
    assert "Compute and memory use" in text
    assert "context_length_exceeded" in text, "failures by reason"


def run_lines(run: BatchRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / "batch.runs.jsonl").read_bytes().splitlines()]


def test_more_than_half_of_the_possible_prefix_sharing_is_achieved(batch_run: BatchRun) -> None:
    assert batch_run.summary["sharing_achieved"] > 0.5 * batch_run.summary["sharing_possible"] > 0.2


@pytest.mark.parametrize("custom_id", sorted(REFUSED))
def test_a_refused_line_says_why(batch_run: BatchRun, custom_id: str) -> None:
    (record,) = [e for e in batch_run.errors if e["custom_id"] == custom_id]
    assert record["error"] is None
    assert record["response"]["status_code"] == 400
    error = record["response"]["body"]["error"]
    assert error["code"] == REFUSED[custom_id][1]
    assert len(error["message"]) > 10


def test_a_broken_line_is_reported_by_its_number(batch_run: BatchRun) -> None:
    (record,) = [e for e in batch_run.errors if e["custom_id"] == "broken"]
    assert record["response"]["body"]["error"]["code"] == "invalid_json_line"
    assert record["response"]["body"]["error"]["line"] == len(example_lines()) + 1
    assert record["response"]["body"]["error"]["message"].startswith(f"Line {len(example_lines()) + 1}:")


def test_json_schema_answers_validate(batch_run: BatchRun) -> None:
    extractions = [line for line in example_lines() if line["custom_id"].startswith("extract-")]
    assert len(extractions) >= 20
    for line in extractions:
        schema = line["body"]["response_format"]["json_schema"]["schema"]
        jsonschema.validate(json.loads(text_of(batch_run, line["custom_id"])), schema)
    jsonschema.validate(json.loads(text_of(batch_run, "schema")), PERSON)


def test_an_extraction_finds_the_person_in_the_text(batch_run: BatchRun) -> None:
    """The demo model is small: at least two in three names must be right, by chance none would be."""
    extractions = [line for line in example_lines() if line["custom_id"].startswith("extract-")]
    right = sum(
        json.loads(text_of(batch_run, line["custom_id"]))["name"] in line["body"]["messages"][0]["content"]
        for line in extractions
    )
    assert right >= len(extractions) * 2 / 3


def test_a_regex_is_followed(batch_run: BatchRun) -> None:
    assert re.fullmatch(r"19[0-9]{2}", text_of(batch_run, "regex"))


def test_generation_ends_at_a_stop_string(batch_run: BatchRun) -> None:
    assert text_of(batch_run, "stop").replace(" ", "") == "7,8,"
    assert body_of(batch_run, "stop")["choices"][0]["finish_reason"] == "stop"


def test_logprobs_come_with_each_token(batch_run: BatchRun) -> None:
    body = body_of(batch_run, "logprobs")
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == body["usage"]["completion_tokens"]
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in content)


def test_n_answers_come_in_one_record(batch_run: BatchRun) -> None:
    assert [choice["index"] for choice in body_of(batch_run, "n")["choices"]] == [0, 1, 2]


def test_prompts_of_every_form_are_continued(batch_run: BatchRun) -> None:
    assert text_of(batch_run, "echo").startswith("The capital of France is")
    first, second = body_of(batch_run, "two prompts")["choices"]
    assert "Paris" in first["text"]
    assert "Rome" in second["text"]
    assert body_of(batch_run, "ids")["usage"]["prompt_tokens"] == 5


def test_equal_prompts_get_equal_greedy_answers(batch_run: BatchRun) -> None:
    assert text_of(batch_run, "same words 1") == text_of(batch_run, "same words 2") != ""


def test_answers_name_the_model_that_gave_them(batch_run: BatchRun) -> None:
    assert body_of(batch_run, "other model")["model"] == "SmolLM2-135M-Instruct"


def test_answers_are_english(batch_run: BatchRun) -> None:
    """At least three in four: so small a model, decoded greedily, now and then repeats a phrase for ever."""
    texts = [text_of(batch_run, line["custom_id"]) for line in example_lines()]
    long = [text for text in texts if len(text.split()) > 30]
    assert len(long) >= 10
    common = {"the", "a", "of", "and", "to", "in", "is", "it", "that", "for", "you", "with", "on", "as"}
    words_of = [re.findall(r"[a-z']+", text.lower()) for text in long]
    english = [sum(word in common for word in words) > len(words) / 8 for words in words_of]
    assert sum(english) >= len(long) * 3 / 4
