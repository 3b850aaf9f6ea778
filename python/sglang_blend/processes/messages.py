"""Messages between a job and its processes: length-prefixed frames over a socket pair.

A frame is a JSON object and, beside it, raw bytes. Token ids travel as these bytes, int32 each.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from sglang_blend.jsonl import json_bytes

ID_BYTES = np.dtype(np.int32).itemsize
_LENGTHS = struct.Struct("<II")  # bytes of the head, bytes of the data


class Message(NamedTuple):
    """`head` is JSON; `data` is whatever the head says."""

    head: dict[str, Any]
    data: bytes


def pack(head: dict[str, Any], data: bytes = b"") -> bytes:
    """One frame.

    Raises:
        TypeError: the head is no JSON, or nested too deeply.
    """
    packed = json_bytes(head)
    return _LENGTHS.pack(len(packed), len(data)) + packed + data


def send(sock: socket.socket, head: dict[str, Any], data: bytes = b"") -> None:
    """Write one frame to a blocking socket."""
    sock.sendall(pack(head, data))


def receive(sock: socket.socket) -> Message | None:
    """Read one frame from a blocking socket; None when the other side is gone."""
    lengths = _receive_exactly(sock, _LENGTHS.size)
    if lengths is None:
        return None
    num_head, num_data = _LENGTHS.unpack(lengths)
    frame = _receive_exactly(sock, num_head + num_data)
    return None if frame is None else _message(frame, num_head)


async def read(reader: asyncio.StreamReader) -> Message | None:
    """Read one frame from a stream; None when the other side is gone."""
    try:
        num_head, num_data = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
        return _message(await reader.readexactly(num_head + num_data), num_head)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def pack_ids(ids: Iterable[Sequence[int]]) -> bytes:
    """Token ids of one or more requests, one after the other."""
    return b"".join(np.asarray(one, np.int32).tobytes() for one in ids)


def view_ids(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The token ids in some bytes."""
    return np.frombuffer(data, np.int32)


def _receive_exactly(sock: socket.socket, num_bytes: int) -> bytes | None:
    buffer = bytearray(num_bytes)
    view = memoryview(buffer)
    while view:
        try:
            num_read = sock.recv_into(view)
        except ConnectionError:
            return None
        if not num_read:
            return None
        view = view[num_read:]
    return bytes(buffer)


def _message(frame: bytes, num_head: int) -> Message:
    return Message(orjson.loads(frame[:num_head]), frame[num_head:])
