"""Token ids that a request brings itself, held against the model's vocabulary.

SGLang 0.5.17 checks them nowhere: an id beyond the embedding table is an IndexError in the scheduler (an
illegal memory access on a GPU), which ends the engine and every request in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_blend.request import BatchLine, Rejection
from sglang_blend.srt.bodies import rejection

_FIELDS = ("prompt", "input", "input_ids", "stop_token_ids")


def unknown_token_id(line: BatchLine, vocab_size: int) -> Rejection | None:
    """A refusal where the body names a token that the model does not have."""
    for name in _FIELDS:
        for token_id in _ids(line.body.get(name)):
            if not 0 <= token_id < vocab_size:
                return rejection(
                    line,
                    "invalid_value",
                    f"{name} has the token id {token_id}; the model has 0 to {vocab_size - 1}.",
                    param=name,
                )
    return None


def _ids(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, int):
                yield item
            else:
                yield from _ids(item)
