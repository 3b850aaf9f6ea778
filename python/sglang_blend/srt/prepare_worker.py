"""A process that prepares lines: `processes.prepare_pool` is its parent's side."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence
from typing import Any

from sglang_blend.errors import BlendError
from sglang_blend.processes.messages import Message, pack_ids, receive, send
from sglang_blend.request import BatchLine, Rejection
from sglang_blend.srt.fast_tokenizer import skip_offsets
from sglang_blend.srt.flags import server_args
from sglang_blend.srt.serving import Serving, tokenizer_manager_alone


def main(sock: socket.socket, argv: Sequence[str]) -> None:
    """Answer every chunk of lines with what becomes of each, in order, until the job is gone."""
    try:
        manager, templates = tokenizer_manager_alone(server_args(argv, runs_steps=False))
    except BlendError as e:
        send(sock, {"error": str(e), "kind": type(e).__name__})
        return
    skip_offsets(manager.tokenizer)
    serving = Serving(manager, templates)
    send(sock, {"ready": True})
    # Chunks are taken from the socket at once, so that the job never waits to send while we wait to answer.
    chunks: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    threading.Thread(target=_take_chunks, args=(sock, chunks), daemon=True).start()
    while (chunk := chunks.get()) is not None:
        prepared = [serving.prepare(BatchLine(**line)) for line in chunk.head["lines"]]
        ids = pack_ids(one.token_ids for one in prepared if not isinstance(one, Rejection))
        send(sock, {"results": [_as_json(one) for one in prepared]}, ids)


def _take_chunks(sock: socket.socket, chunks: queue.SimpleQueue[Message | None]) -> None:
    while (message := receive(sock)) is not None:
        chunks.put(message)
    chunks.put(None)


def _as_json(one: Any) -> Any:
    """A rejection as its fields; of a prepared request the number of token ids and all but these."""
    return vars(one) if isinstance(one, Rejection) else [len(one.token_ids), *one[1:]]
