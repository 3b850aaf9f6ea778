"""Messages over a socket pair: what goes in comes out, and a lost other side is told."""

import asyncio
import socket

import numpy as np
import pytest

from sglang_blend.engine.messages import (
    Accepted,
    Answered,
    Ask,
    AskFlush,
    AskState,
    AwaitEnd,
    Ended,
    Imported,
    Lines,
    Message,
    Progress,
    Ready,
    Refused,
    Results,
    Said,
    Started,
    StartHost,
    StartWorker,
    pack,
    pack_line,
    read,
    receive,
    send,
    unpack,
    unpack_line,
)
from sglang_blend.request import Answer, BatchLine, EngineFacts, Prepared, Rejection

LINE = BatchLine(3, 120, "a", "/v1/completions", {"prompt": "one\ntwo", "n": 2})
FACTS = EngineFacts({"layers": 2}, "cpu", 1, 100, 1, 8, "dual-scan", mode="mixed", chunk_tokens=512)
EACH: list[Message] = [
    Ask(LINE, [5, 7, 2**31 - 1], {"rank": 3}, number=9),
    AskState(number=2),
    AskFlush(number=3),
    Accepted(),
    Refused("ConfigError", "no such flag"),
    Ready(FACTS),
    Progress(),
    Answered(9, Answer(200, {"text": "é"}, 3, 1, 4)),
    Said(2, [{"running": 1}]),
    Lines([pack_line(LINE), pack_line(LINE._replace(line_number=4))]),
    StartHost(["--tp-size", "2"], "/steps"),
    StartWorker(["--model-path", "m"]),
    AwaitEnd(17),
    Imported(True),
    Started(17),
    Ended(-9),
]


@pytest.mark.parametrize("message", EACH, ids=lambda message: type(message).__name__)
def test_a_message_is_the_same_on_the_other_side(message: Message) -> None:
    assert unpack(pack(message)) == message


def test_results_keep_the_order_of_refused_and_prepared_lines() -> None:
    refused = Rejection(code="invalid_value", message="no", line_number=2, custom_id="b")
    sent: list[Prepared | Rejection] = [
        Prepared([5, 7], 8, False, ""),
        refused,
        Prepared(np.array([11], np.int32), 0, True, "x"),
    ]
    message = unpack(pack(Results(sent)))
    assert isinstance(message, Results)
    first, second, third = message.results
    assert second == refused
    assert isinstance(first, Prepared)
    assert isinstance(third, Prepared)
    assert (list(first.token_ids), *first[1:]) == ([5, 7], 8, False, "")
    assert (list(third.token_ids), *third[1:]) == ([11], 0, True, "x")


def test_there_is_an_example_of_each_message() -> None:
    assert {type(message) for message in EACH} | {Results} == set(Message.__subclasses__())


def test_a_line_is_the_same_on_the_other_side() -> None:
    assert unpack_line(pack_line(LINE)) == LINE


@pytest.mark.parametrize("num_bytes_lost", [1, 5, 12])
def test_a_torn_frame_is_the_end(num_bytes_lost: int) -> None:
    frame = pack(Started(1))
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(frame + frame[:-num_bytes_lost])
        ours.close()
        assert receive(theirs) == Started(1)
        assert receive(theirs) is None


def test_a_stream_ends_like_a_socket() -> None:
    async def messages() -> list[Message | None]:
        ours, theirs = socket.socketpair()
        ours.sendall(pack(Started(1)) + pack(Lines([b"data"])) + pack(Started(3))[:-1])
        ours.close()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        found = [await read(reader) for _ in range(3)]
        writer.close()
        return found

    assert asyncio.run(messages()) == [Started(1), Lines([b"data"]), None]


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    deep: object = 1
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TypeError):
        pack(Said(1, deep))


def test_half_a_surrogate_pair_in_an_answer_is_carried_as_a_question_mark() -> None:
    """Tool parsers of SGLang pass on what a model wrote as an escape."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, Answered(1, Answer(200, {"said": "smile \ud83d", 1: "é"}, 1, 0, 1)))  # type: ignore[dict-item]
        message = receive(theirs)
    assert isinstance(message, Answered)
    assert message.value.body == {"said": "smile ?", "1": "é"}
