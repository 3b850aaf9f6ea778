"""Frames over a socket pair: what goes in comes out, and a lost other side is told."""

import asyncio
import socket

import pytest

from sglang_blend.processes.messages import pack, pack_ids, read, receive, send, view_ids


def test_a_frame_carries_json_and_token_ids() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, {"ask": "answer", "hints": {"rank": 3}}, pack_ids([[5, 7], [11]]))
        message = receive(theirs)
    assert message is not None
    assert message.head == {"ask": "answer", "hints": {"rank": 3}}
    assert view_ids(message.data).tolist() == [5, 7, 11]


@pytest.mark.parametrize("num_bytes_lost", [1, 5, 12])
def test_a_torn_frame_is_the_end(num_bytes_lost: int) -> None:
    frame = pack({"a": 1})
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(frame + frame[:-num_bytes_lost])
        ours.close()
        assert receive(theirs) is not None
        assert receive(theirs) is None


def test_a_stream_ends_like_a_socket() -> None:
    async def heads() -> list[object]:
        ours, theirs = socket.socketpair()
        ours.sendall(pack({"n": 1}) + pack({"n": 2}, b"data") + pack({"n": 3})[:-1])
        ours.close()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        found = [await read(reader) for _ in range(3)]
        writer.close()
        return [message and (message.head["n"], message.data) for message in found]

    assert asyncio.run(heads()) == [(1, b""), (2, b"data"), None]


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TypeError):
        pack({"deep": deep})


def test_half_a_surrogate_pair_in_an_answer_is_carried_as_a_question_mark() -> None:
    """Tool parsers of SGLang pass on what a model wrote as an escape."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, {"said": "smile \ud83d", 1: "é"})
        message = receive(theirs)
    assert message is not None
    assert message.head == {"said": "smile ?", "1": "é"}
