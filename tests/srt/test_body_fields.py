"""The parameters that are let through are those SGLang knows, of the pinned version."""

import pytest

from sglang_blend.job.body_check import FIELDS, NO_EFFECT, NOT_SERVED

pytestmark = pytest.mark.engine

# Read by validators of SGLang's models without being fields of them.
READ_BEFORE_VALIDATION = {"/v1/chat/completions": {"reasoning"}}


@pytest.mark.parametrize("url", sorted(FIELDS))
@pytest.mark.filterwarnings("ignore")
def test_every_parameter_of_sglang_is_known_and_no_other(url: str) -> None:
    from sglang.srt.entrypoints.openai import protocol

    models = {
        "/v1/chat/completions": protocol.ChatCompletionRequest,
        "/v1/completions": protocol.CompletionRequest,
        "/v1/embeddings": protocol.EmbeddingRequest,
    }
    theirs = set(models[url].model_fields) | READ_BEFORE_VALIDATION.get(url, set())
    ours = set(FIELDS[url])
    assert theirs - ours - set(NOT_SERVED) == set()
    assert ours - theirs - set(NO_EFFECT) == set()
