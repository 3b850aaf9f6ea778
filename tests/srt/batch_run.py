"""One run of the main job as a user starts it, for all end-to-end tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from job.malformed import malformed_files
from sglang_blend.errors import InputError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.line_index import LineIndex

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "batch.jsonl"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def chat(custom_id: str, content: str = "Say hello.", **body: Any) -> dict[str, Any]:
    """A chat line; greedy, a few tokens."""
    messages = [{"role": "user", "content": content}]
    body = {"messages": messages, "max_tokens": 8, "temperature": 0} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def completion(custom_id: str, prompt: Any, **body: Any) -> dict[str, Any]:
    """A completions line; greedy, a few tokens."""
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


FEATURES = [
    chat("logprobs", logprobs=True, top_logprobs=2),
    chat("n", "Name an animal.", n=3, temperature=1.0),
    completion("stop", "1, 2, 3, 4, 5, 6,", max_tokens=32, stop=["9"]),
    completion("regex", "The year of the moon landing was", regex=r"19[0-9]{2}"),
    completion("echo", "The capital of France is", echo=True),
    completion("ids", [504, 3575, 282, 4649, 314]),
    completion("two prompts", ["The capital of France is", "The capital of Italy is"]),
    chat(
        "schema",
        "Make up a person as JSON.",
        max_tokens=80,
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}},
    ),
    chat("json object", "Make up a person as JSON.", max_tokens=80, response_format={"type": "json_object"}),
    chat("system", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]),
    chat("same words 1", "The same words are asked twice, with the same answer.", max_tokens=12),
    chat("same words 2", "The same words are asked twice, with the same answer.", max_tokens=12),
    chat("other model", model="gpt-4o-mini"),
]
# The example of OpenAI's guide to its Batch API, as it stands there.
OPENAI_GUIDE: list[dict[str, Any]] = [
    {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "gpt-3.5-turbo-0125",
            "messages": [
                {"role": "system", "content": f"You are {kind} assistant."},
                {"role": "user", "content": "Hello world!"},
            ],
            "max_tokens": 1000,
        },
    }
    for number, kind in ((1, "a helpful"), (2, "an unhelpful"))
]
REFUSED = {
    "too long": (completion("too long", "word " * 9000), "context_length_exceeded"),
    "too many": (completion("too many", "word", max_tokens=9000), "context_length_exceeded"),
    "stream": (chat("stream", stream=True), "unsupported_value"),
    "no messages": (chat("no messages", messages=[]), "empty_array"),
    "absent": (chat("absent") | {"body": {"prompt": "hi"}}, "missing_required_parameter"),
    "no prompt": (completion("no prompt", None), "invalid_type"),
    "hot": (chat("hot", temperature="very"), "invalid_type"),
    "cold": (chat("cold", temperature=-1), "decimal_below_min_value"),
    "unknown": (chat("unknown", max_token=8), "unknown_parameter"),
    "no such token": (completion("no such token", [504, 999_999]), "invalid_value"),
    "no such token later": (completion("no such token later", [[504], [49152]]), "invalid_value"),
    "bad schema": (
        chat(
            "bad schema",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "p", "schema": {"type": "no such"}},
            },
        ),
        "invalid_value",
    ),
    "embedding": (
        {
            "custom_id": "embedding",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"input": "x", "model": "m"},
        },
        "url_mismatch",
    ),
    "url": (chat("url") | {"url": "/v1/images"}, "invalid_url"),
}
MALFORMED_PREFIX = "malformed "
BROKEN_LINE = b'{"custom_id": "broken", '


@dataclass(frozen=True)
class BatchRun:
    """What a user has in hand after the job."""

    directory: Path
    exit_code: int
    screen: str
    log: str
    answers: dict[str, dict[str, Any]]
    errors: list[dict[str, Any]]
    summary: dict[str, Any]


def run_batch(directory: Path, lines: list[bytes], *flags: str) -> BatchRun:
    """Write the batch file, run `python -m sglang_blend.launch_offline`, read the results."""
    batch = directory / "batch.jsonl"
    batch.write_bytes(b"".join(line + b"\n" for line in lines))
    done = subprocess.run(
        [sys.executable, "-m", "sglang_blend.launch_offline", "--file", str(batch), *flags],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        start_new_session=True,
    )
    output, errors = directory / "batch.output.jsonl", directory / "batch.errors.jsonl"
    assert output.exists(), done.stderr[-4000:]
    answers = [json.loads(line) for line in output.read_bytes().split(b"\n")[:-1]]
    assert len({a["custom_id"] for a in answers}) == len(answers), "a request was answered twice"
    return BatchRun(
        directory,
        done.returncode,
        done.stdout,
        done.stderr,
        {a["custom_id"]: a for a in answers},
        [json.loads(line) for line in errors.read_bytes().split(b"\n")[:-1]],
        json.loads((directory / "batch.summary.json").read_text()),
    )


def malformed_for_engine(directory: Path) -> list[dict[str, Any]]:
    """Lines of the malformed files that need the engine to be judged; custom_id says where they stand."""
    lines = []
    for file in malformed_files(directory):
        with contextlib.suppress(InputError), BatchFile(file.path) as batch:
            lines += [
                {
                    "custom_id": f"{MALFORMED_PREFIX}{file.manifest['file']} {line.line_number}",
                    "method": "POST",
                    "url": line.url,
                    "body": line.body,
                }
                for line in LineIndex.build(batch).accepted()
            ]
    return lines


def all_lines() -> list[bytes]:
    """The example, a line that is no JSON, every feature, OpenAI's example, all that is refused."""
    mine = [orjson.dumps(line) for line in FEATURES + OPENAI_GUIDE + [line for line, _ in REFUSED.values()]]
    return [*EXAMPLE.read_bytes().split(b"\n")[:-1], BROKEN_LINE, *mine]
