"""Embeddings by the main job, from the demo model as `--is-embedding` starts it."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from srt.batch_run import chat, run_batch

pytestmark = pytest.mark.engine

TEXT = "The capital of France is"
IDS = [504, 3575, 282, 4649, 314]  # of TEXT


def embedding(custom_id: str, given: Any, **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"input": given} | body,
    }


def test_every_form_of_input_is_embedded_and_chats_are_refused(tmp_path: Path) -> None:
    lines = [
        embedding("text", TEXT, model="any"),
        embedding("texts", [TEXT, "Fish"]),
        embedding("ids", IDS),
        embedding("lists of ids", [IDS, IDS[:2]]),
        embedding("base64", TEXT, encoding_format="base64"),
        embedding("too long", "word " * 9000),
        chat("chat"),
    ]
    run = run_batch(tmp_path, [orjson.dumps(line) for line in lines], "--is-embedding")
    codes = {e["custom_id"]: e["response"]["body"]["error"]["code"] for e in run.errors}
    assert codes == {"too long": "context_length_exceeded", "chat": "url_mismatch"}

    def vectors(custom_id: str) -> list[Any]:
        return [item["embedding"] for item in run.answers[custom_id]["response"]["body"]["data"]]

    (text,), (decoded,) = vectors("text"), vectors("base64")
    assert len(text) == 576
    assert np.isclose(np.linalg.norm(text), 1, atol=0.01)
    same = [*vectors("ids"), vectors("texts")[0], vectors("lists of ids")[0]]
    for other in [*same, np.frombuffer(base64.b64decode(decoded), "<f4")]:
        assert np.allclose(text, other, atol=0.01)
    assert not np.allclose(text, vectors("texts")[1], atol=0.1)
    assert run.answers["ids"]["response"]["body"]["usage"]["prompt_tokens"] == len(IDS)
