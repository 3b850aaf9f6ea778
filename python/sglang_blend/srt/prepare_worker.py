"""A process that prepares lines: `engine.prepare_pool` is its parent's side."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence
from typing import Any

import tokenizers

from sglang_blend.engine.messages import Accepted, Lines, Refused, Results, receive, send, unpack_line
from sglang_blend.errors import BlendError
from sglang_blend.srt.flags import server_args
from sglang_blend.srt.serving import Serving, tokenizer_manager_alone


def main(sock: socket.socket, argv: Sequence[str]) -> None:
    """Answer every chunk of lines with what becomes of each, in order, until the job is gone."""
    try:
        manager, templates = tokenizer_manager_alone(server_args(argv, runs_steps=False))
    except BlendError as e:
        send(sock, Refused(type(e).__name__, str(e)))
        return
    skip_offsets(manager.tokenizer)
    serving = Serving(manager, templates)
    send(sock, Accepted())
    # Chunks are taken from the socket at once, so that the job never waits to send while we wait to answer.
    chunks: queue.SimpleQueue[Lines | None] = queue.SimpleQueue()
    threading.Thread(target=_take_chunks, args=(sock, chunks), daemon=True).start()
    while (chunk := chunks.get()) is not None:
        send(sock, Results([serving.prepare(unpack_line(packed)) for packed in chunk.lines]))


def _take_chunks(sock: socket.socket, chunks: queue.SimpleQueue[Lines | None]) -> None:
    while isinstance(message := receive(sock), Lines):
        chunks.put(message)
    chunks.put(None)


def skip_offsets(tokenizer: Any) -> None:
    """Let a transformers tokenizer encode without offsets; others stay as they are. Changes `tokenizer`.

    The same token ids in three quarters of the time: transformers asks its Rust tokenizer for the place of
    each token in the text, which nothing in SGLang reads. `encode_batch_fast` of the same object leaves them
    out.

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
