"""A process that prepares lines: `engine.prepare_pool` is its parent's side."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence

from sglang_blend.engine.messages import Accepted, Lines, Refused, Results, receive, send, unpack_line
from sglang_blend.errors import BlendError
from sglang_blend.srt.fast_tokenizer import skip_offsets
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
