"""Messages between a job and its processes: what they may say, and how it travels over a socket pair.

    to the engine host      Ask, AskState, AskFlush
                            from it: Accepted or Refused; Ready, Progress; Answered, Said
    to a prepare worker     Lines
                            from it: Accepted or Refused; Results
    to the nursery          StartHost, StartWorker, AwaitEnd
                            from it: Imported; Started, Ended

Each is a frozen dataclass. `pack` makes a frame of it: two lengths, `[name, *fields]` as JSON, and beside
them raw bytes, which carry token ids as int32.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import orjson

from sglang_blend.jsonl import json_bytes
from sglang_blend.request import Answer, BatchLine, EngineFacts, Prepared, Rejection, TokenIds

_ID_BYTES = np.dtype(np.int32).itemsize
_LENGTHS = struct.Struct("<II")  # bytes of the head, bytes of the data


@dataclass(frozen=True)
class Message:
    """One that travels as its fields, which are JSON values; others say how below.

    `_split` and `_join` are each other's inverse: fields to JSON values and bytes, and back.
    """

    def _split(self) -> tuple[Sequence[Any], bytes]:
        return [getattr(self, field.name) for field in fields(self)], b""

    @classmethod
    def _join(cls, values: Sequence[Any], data: bytes) -> Self:
        return cls(*values)


@dataclass(frozen=True)
class Ask(Message):
    """Run one request. `hints`: what the plan says about it, for the scheduler (`scheduling.hints`)."""

    line: BatchLine
    token_ids: TokenIds
    hints: dict[str, Any] | None = None
    number: int = 0  # of the request in one run of the engine; that run sets it

    def _split(self) -> tuple[Sequence[Any], bytes]:
        return (tuple(self.line), self.hints, self.number), _pack_ids([self.token_ids])

    @classmethod
    def _join(cls, values: Sequence[Any], data: bytes) -> Self:
        line, hints, number = values
        return cls(BatchLine(*line), _view_ids(data).tolist(), hints, number)


@dataclass(frozen=True)
class AskState(Message):
    """Tell the internal state of each scheduler."""

    number: int = 0


@dataclass(frozen=True)
class AskFlush(Message):
    """Empty the radix cache; said is whether that was done."""

    number: int = 0


@dataclass(frozen=True)
class Accepted(Message):
    """SGLang has taken its flags, and a worker can work."""


@dataclass(frozen=True)
class Refused(Message):
    """The process cannot do what it was started for. `kind` is a class of `errors`, by its name."""

    kind: str
    message: str


@dataclass(frozen=True)
class Ready(Message):
    """The model is loaded."""

    facts: EngineFacts

    def _split(self) -> tuple[Sequence[Any], bytes]:
        return [self.facts._asdict()], b""

    @classmethod
    def _join(cls, values: Sequence[Any], data: bytes) -> Self:
        (facts,) = values
        return cls(EngineFacts(**facts))


@dataclass(frozen=True)
class Progress(Message):
    """The engine has produced something since it said so last."""


@dataclass(frozen=True)
class Answered(Message):
    """What became of an `Ask`."""

    number: int
    value: Answer

    def _split(self) -> tuple[Sequence[Any], bytes]:
        return (self.number, tuple(self.value)), b""

    @classmethod
    def _join(cls, values: Sequence[Any], data: bytes) -> Self:
        number, answer = values
        return cls(number, Answer(*answer))


@dataclass(frozen=True)
class Said(Message):
    """The answer to any other question, as a JSON value."""

    number: int
    value: Any


@dataclass(frozen=True)
class Lines(Message):
    """A few lines to prepare, each packed by `pack_line`."""

    lines: Sequence[bytes]

    def _split(self) -> tuple[Sequence[Any], bytes]:
        return (), b"\n".join(self.lines)

    @classmethod
    def _join(cls, values: Sequence[Any], data: bytes) -> Self:
        return cls(data.split(b"\n"))


@dataclass(frozen=True)
class Results(Message):
    """What became of each of the lines, in their order."""

    results: Sequence[Prepared | Rejection]

    def _split(self) -> tuple[Sequence[Any], bytes]:
        values = [
            vars(one) if isinstance(one, Rejection) else (len(one.token_ids), *one[1:])
            for one in self.results
        ]
        return values, _pack_ids(one.token_ids for one in self.results if isinstance(one, Prepared))

    @classmethod
    def _join(cls, values: Sequence[Any], data: bytes) -> Self:
        results: list[Prepared | Rejection] = []
        at = 0
        for one in values:
            if isinstance(one, dict):
                results.append(Rejection(**one))
            else:
                num_ids, *rest = one
                ids = data[at : at + _ID_BYTES * num_ids]
                at += len(ids)
                results.append(Prepared(_view_ids(ids), *rest))
        return cls(results)


@dataclass(frozen=True)
class StartHost(Message):
    """Start a process that owns an engine. `argv`: SGLang's flags; `stats_file`: see `srt.host.main`."""

    argv: Sequence[str]
    stats_file: str | None = None


@dataclass(frozen=True)
class StartWorker(Message):
    """Start a process that prepares lines. `argv`: SGLang's flags."""

    argv: Sequence[str]


@dataclass(frozen=True)
class AwaitEnd(Message):
    """Wait until a process that was killed is gone, and its group with it."""

    pid: int


@dataclass(frozen=True)
class Imported(Message):
    """SGLang is imported. `forks`: children are forked, and not started afresh."""

    forks: bool


@dataclass(frozen=True)
class Started(Message):
    """A process, which leads a group of the same number."""

    pid: int


@dataclass(frozen=True)
class Ended(Message):
    """A process, with minus the signal where it was killed."""

    exit_code: int


def pack(message: Message) -> bytes:
    """One frame.

    Raises:
        TypeError: a value is no JSON, or nested too deeply.
    """
    values, data = message._split()
    head = json_bytes([type(message).__name__, *values])
    return _LENGTHS.pack(len(head), len(data)) + head + data


def unpack(frame: bytes) -> Message:
    """The message of a whole frame."""
    num_head, _ = _LENGTHS.unpack_from(frame)
    return _message(frame[_LENGTHS.size :], num_head)


def send(sock: socket.socket, message: Message) -> None:
    """Write one frame to a blocking socket."""
    sock.sendall(pack(message))


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


def pack_line(line: BatchLine) -> bytes:
    """A line as JSON without a line end.

    Raises:
        TypeError: it is nested too deeply.
    """
    return orjson.dumps(tuple(line))


def unpack_line(packed: bytes) -> BatchLine:
    """The line that `pack_line` has packed."""
    return BatchLine(*orjson.loads(packed))


def _message(frame: bytes, num_head: int) -> Message:
    name, *values = orjson.loads(frame[:num_head])
    return _KINDS[name]._join(values, frame[num_head:])


def _pack_ids(ids: Iterable[TokenIds]) -> bytes:
    """Token ids of one or more requests, one after the other."""
    return b"".join(np.asarray(one, np.int32).tobytes() for one in ids)


def _view_ids(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
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


_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in Message.__subclasses__()}
