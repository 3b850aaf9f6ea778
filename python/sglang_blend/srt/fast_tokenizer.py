"""The same token ids in three quarters of the time: Hugging Face's tokenizers without character offsets.

transformers asks its Rust tokenizer for the place of each token in the text, which nothing in SGLang reads.
`encode_batch_fast` of the same object leaves them out.
"""

from __future__ import annotations

from typing import Any

import tokenizers


def skip_offsets(tokenizer: Any) -> None:
    """Let a transformers tokenizer encode without offsets; others stay as they are. Changes `tokenizer`.

    Source: `TokenizersBackend._encode_plus` (transformers 5) calls `self._tokenizer.encode_batch`.
    """
    rust = getattr(tokenizer, "_tokenizer", None)
    if type(rust) is tokenizers.Tokenizer:
        tokenizer._tokenizer = _WithoutOffsets(rust)


class _WithoutOffsets:
    """A Rust tokenizer whose batches have no offsets; everything else is passed on."""

    __slots__ = ("_rust",)

    def __init__(self, rust: tokenizers.Tokenizer) -> None:
        object.__setattr__(self, "_rust", rust)

    def encode_batch(self, *args: Any, **kwargs: Any) -> list[tokenizers.Encoding]:
        return self._rust.encode_batch_fast(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rust, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._rust, name, value)
