"""The batch file: what is accepted, what is refused, and that one bad line costs one line."""

import gzip
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from sglang_blend.errors import InputError
from sglang_blend.job import lines
from sglang_blend.job.batch_file import BatchFile, parse_line
from sglang_blend.request import BatchLine, Rejection

GOOD = {
    "custom_id": "a1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"messages": [{"role": "user", "content": "hi"}]},
}


def good(custom_id: str) -> bytes:
    return orjson.dumps(GOOD | {"custom_id": custom_id})


def scan(path: Path, content: bytes) -> list[BatchLine | Rejection]:
    path.write_bytes(content)
    with BatchFile(path) as batch:
        return list(batch.scan())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batch.jsonl"


def test_lines_keep_their_number_and_offset_over_blank_lines(path: Path) -> None:
    items = scan(path, good("a") + b"\n\n  \r\n" + good("b") + b"\r\n" + good("c"))
    assert [(i.line_number, i.custom_id) for i in items] == [(1, "a"), (4, "b"), (5, "c")]
    with BatchFile(path) as batch:
        for item in items:
            assert isinstance(item, BatchLine)
            assert batch.line(item.offset, item.line_number) == item


def test_a_byte_order_mark_is_not_part_of_the_first_line(path: Path) -> None:
    (item,) = scan(path, b"\xef\xbb\xbf" + good("a"))
    assert item.custom_id == "a"


def test_line_separators_inside_strings_do_not_end_a_line(path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "a\u2028b\u2029c\u0085d"}]}
    (item,) = scan(path, orjson.dumps(GOOD | {"body": body}))
    assert isinstance(item, BatchLine)
    assert item.body == body


def test_a_gzip_file_reads_like_the_plain_one(tmp_path: Path) -> None:
    plain = scan(tmp_path / "plain.jsonl", good("a") + b"\n" + good("b"))
    packed = scan(tmp_path / "packed.jsonl.gz", gzip.compress(good("a") + b"\n" + good("b")))
    assert plain == packed


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"not json", "invalid_json_line", None),
        (b'{"custom_id": "x", NaN}', "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (orjson.dumps(GOOD | {"custom_id": None}), "missing_required_parameter", "custom_id"),
        (orjson.dumps(GOOD | {"custom_id": 7}), "invalid_type", "custom_id"),
        (orjson.dumps(GOOD | {"custom_id": ""}), "invalid_value", "custom_id"),
        (orjson.dumps(GOOD | {"custom_id": "x" * 513}), "invalid_value", "custom_id"),
        (orjson.dumps(GOOD | {"method": "GET"}), "invalid_method", "method"),
        (orjson.dumps(GOOD | {"url": "/v1/images"}), "invalid_url", "url"),
        (orjson.dumps(GOOD | {"url": 3}), "invalid_url", "url"),
        (orjson.dumps(GOOD | {"url": None}), "missing_required_parameter", "url"),
        (orjson.dumps(GOOD | {"body": None}), "missing_required_parameter", "body"),
        (orjson.dumps(GOOD | {"body": "{}"}), "invalid_type", "body"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason_and_the_others_stay(
    path: Path, line: bytes, code: str, param: str | None
) -> None:
    before, refused, after = scan(path, good("before") + b"\n" + line + b"\n" + good("after") + b"\n")
    assert isinstance(before, BatchLine)
    assert isinstance(after, BatchLine)
    assert isinstance(refused, Rejection)
    assert (refused.code, refused.param, refused.line_number) == (code, param, 2)


def test_a_broken_line_tells_its_custom_id_where_that_is_whole(path: Path) -> None:
    whole, torn, later = scan(
        path,
        b'{"custom_id": "a\\u00e9", "body": NaN}\n{"custom_id": "b\n{"body": NaN, "custom_id": "c"}',
    )
    assert (whole.custom_id, torn.custom_id, later.custom_id) == ("a\u00e9", None, None)


def test_a_line_without_end_is_not_read_into_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 300)
    longest = good("b")[:-1] + b" " * (300 - len(good("b"))) + b"}"
    content = b"\n".join([good("a"), longest, good("c") + b" " * 3_000_000, b" " * 400, good("d")])
    items = scan(path, content)
    assert [(i.line_number, i.custom_id, getattr(i, "code", "ok")) for i in items] == [
        (1, "a", "ok"),
        (2, "b", "ok"),
        (3, "c", "line_too_long"),
        (4, None, "line_too_long"),
        (5, "d", "ok"),
    ]
    with BatchFile(path) as batch:
        assert [batch.item(i.offset, i.line_number) for i in items] == items


def test_an_accepted_line_is_read_again_as_it_was_checked(path: Path) -> None:
    """With its null parameters left out, and behind a byte order mark."""
    with_null = good("a").replace(b'"body":{', b'"body":{"top_p":null,')
    assert b"null" in with_null
    items = scan(path, b"\xef\xbb\xbf" + with_null + b"\n" + good("b"))
    with BatchFile(path) as batch:
        assert [batch.line(item.offset, item.line_number) for item in items] == items


@pytest.mark.parametrize("instead", [b"x" * 200, b"[1]", b'"text"', b'{"custom_id": "a"}', b""])
def test_a_file_that_changes_under_the_job_is_noticed(path: Path, instead: bytes) -> None:
    (item,) = scan(path, good("a"))
    assert isinstance(item, BatchLine)
    with BatchFile(path) as batch:
        path.write_bytes(instead)
        with pytest.raises(InputError, match="changed while"):
            batch.line(item.offset, item.line_number)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n\r\n", "is empty"),
        (good("a").decode().encode("utf-16"), "UTF-16"),
        (b"[" + good("a") + b"]", "a JSON array"),
        (b"[\n" + good("a") + b"\n]", "a JSON array"),
        (orjson.dumps(GOOD, option=orjson.OPT_INDENT_2), "spread over many lines"),
        (gzip.compress(good("a"), mtime=0)[:-9], "damaged gzip"),
    ],
)
def test_a_file_that_is_no_batch_file_is_refused_in_one_sentence(
    path: Path, content: bytes, said: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        BatchFile(path)
    assert str(path) in str(refused.value)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        BatchFile(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="is a directory"):
        BatchFile(tmp_path)


def test_a_stream_is_refused_because_a_job_reads_its_input_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (Path("-"), tmp_path / "pipe"):
        with pytest.raises(InputError, match="reads its input more than once"):
            BatchFile(place)


def chain(num: int, *, loop: bool) -> dict[str, Any]:
    """A schema whose definitions refer to the next one each; the last to the first, or to nothing."""
    last = {"$ref": "#/$defs/d0"} if loop else {"type": "string"}
    definitions = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(num)} | {f"d{num}": last}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def schema_lines(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Every place where a line may carry one."""
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
    formats = [
        {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        {"type": "json_schema", "schema": schema},
        {
            "type": "structural_tag",
            "structures": [{"begin": "<", "schema": schema, "end": ">"}],
            "triggers": ["<"],
        },
    ]
    message = [{"role": "user", "content": "hi"}]
    bodies: list[dict[str, Any]] = [{"messages": message, "response_format": given} for given in formats]
    bodies.append({"messages": message, "tools": [tool]})
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body} for body in bodies
    ]
    text = {"prompt": "hi", "json_schema": json.dumps(schema)}
    return [*lines, {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": text}]


@pytest.mark.parametrize("place", range(5))
def test_schemas_that_refer_to_each_other_take_time_by_their_length(place: int) -> None:
    """286 KB took 80 s when each chain was followed from its beginning."""
    raw = orjson.dumps(schema_lines(chain(8000, loop=False))[place])
    start = time.monotonic()
    assert isinstance(parse_line(raw, 1), BatchLine)
    assert time.monotonic() - start < 2
    refused = parse_line(orjson.dumps(schema_lines(chain(8000, loop=True))[place]), 1)
    assert isinstance(refused, Rejection)
    assert refused.code == "invalid_json_schema"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"custom_id": "' + b"a" * (8 << 20),
        b'{"custom_id": "' + b"\\\\" * (4 << 20),
        b'{"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": {"'
        + b"p" * (8 << 20)
        + b'": 1, "prompt": ""}}',
    ],
    ids=["a long custom_id", "escapes", "a long name"],
)
def test_a_broken_line_takes_memory_by_its_length(raw: bytes) -> None:
    """48 MiB took 6.7 GiB and 19 s."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        assert isinstance(parse_line(raw, 1), Rejection)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(raw)
    assert time.monotonic() - start < 3


def test_a_template_of_a_line_is_refused() -> None:
    body = GOOD["body"] | {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}  # type: ignore[operator]
    refused = parse_line(orjson.dumps(GOOD | {"body": body}), 1)
    assert isinstance(refused, Rejection)
    assert refused.param == "chat_template_kwargs.chat_template"
