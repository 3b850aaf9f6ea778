"""The reader under everything: whatever the bytes, each line ends as one item and nothing else happens.

`pytest tests/job/test_fuzz.py --hypothesis-profile=fuzz` goes on for as long as it is let. What it found is
in `FOUND`, each with what was wrong.
"""

from __future__ import annotations

import io
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_blend.config import Reading
from sglang_blend.errors import BlendError
from sglang_blend.job.batch_file import MAX_CUSTOM_ID_LEN, parse_line
from sglang_blend.job.body_check import FIELDS, URLS, check_body, without_nulls
from sglang_blend.job.records import rejection_record
from sglang_blend.job.tables import batch_lines, format_of
from sglang_blend.request import BatchLine

FOUND = [
    # The whole url, of any length, was repeated in the error message.
    b'{"custom_id": "a", "method": "POST", "url": "' + b"x" * 2_000_000 + b'", "body": {}}',
    b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "p", "'
    + b"x" * 2_000_000
    + b'": 1}}',
]

odd_numbers = st.sampled_from(
    [0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 1e308, 5e-324, -0.0, float("nan"), float("inf")]
)
texts = st.text(st.characters(codec=None), max_size=8)  # with surrogates, NULs and line separators
scalars = st.none() | st.booleans() | st.integers() | st.floats() | odd_numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
roles = st.sampled_from(["user", "assistant", "x"])
message = st.fixed_dictionaries({}, optional={"role": roles, "content": values})
messages = st.lists(message | values, max_size=3)
names = st.sampled_from(sorted({name for fields in FIELDS.values() for name in fields}))
function = st.just({"name": "f"}) | values
schema = st.fixed_dictionaries({}, optional={"schema": values})
likely = st.fixed_dictionaries(
    {},
    optional={
        "messages": messages,
        "prompt": texts | values,
        "input": texts | values,
        "tools": st.lists(st.fixed_dictionaries({}, optional={"function": function}) | values, max_size=2),
        "tool_choice": st.just({"type": "function", "function": {"name": "f"}}) | values,
        "response_format": values
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["json_schema", "text"])}, optional={"json_schema": schema}
        ),
    },
)
bodies = st.builds(
    lambda some, more: {**some, **more}, st.dictionaries(names | texts, values, max_size=5), likely
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": texts | values,
        "method": st.just("POST") | values,
        "url": st.sampled_from(URLS) | values,
        "body": bodies | values,
    },
)
json_lines = st.builds(
    lambda value, ascii: json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass"),
    envelopes | values,
    st.booleans(),
)


bytes_put_in = st.binary(max_size=3) | st.sampled_from(
    [b"\\u", b"\xed\xa0\x80", b"\0", b"NaN", b"1e999", b"[" * 2000]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A line with some bytes changed, taken out or put in."""
    line = bytearray(draw(json_lines))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 3))] = draw(bytes_put_in)
    return bytes(line)


lines = st.binary(max_size=40) | json_lines | damaged()


@settings(deadline=None)  # machines that run tests are loaded
@given(lines, st.integers(1, 3))
@example(b"[" * 100_000, 1)
@example(b'{"a":' * 2000, 1)
def test_every_line_becomes_one_item_that_can_be_written_down(line: bytes, number: int) -> None:
    item = parse_line(line, number)
    assert item.line_number == number
    if item.custom_id is not None:
        item.custom_id.encode()
    if isinstance(item, BatchLine):
        assert 0 < len(item.custom_id) <= MAX_CUSTOM_ID_LEN
        assert item.url in URLS
        assert check_body(item.url, item.body) is None
        # What is accepted says the same when it is sent on.
        again = orjson.dumps(
            {"custom_id": item.custom_id, "method": "POST", "url": item.url, "body": item.body}
        )
        assert parse_line(again, number) == item
    else:
        written = orjson.loads(orjson.dumps(rejection_record(item)))
        error = written["response"]["body"]["error"]
        assert error["line"] == number
        assert error["code"]
        assert len(error["message"]) < 600
        assert error["param"] is None or len(error["param"]) < 120


@pytest.mark.slow
@settings(deadline=None)  # machines that run tests are loaded
@given(st.sampled_from(URLS), bodies)
def test_a_body_is_judged_without_an_exception(url: str, body: dict[str, Any]) -> None:
    problem = check_body(url, without_nulls(body, url))
    assert problem is None or (problem.code and problem.message)


@pytest.mark.slow
@settings(deadline=None)  # machines that run tests are loaded
@given(st.lists(lines, max_size=5), st.sampled_from(["auto", "jsonl", "openai", "parquet"]))
def test_tables_of_anything_become_lines_or_are_refused(some: list[bytes], table_format: str) -> None:
    content = b"\n".join(some)
    reading = Reading(input_format=table_format)
    found = format_of(io.BytesIO(content), "rows", reading)
    if found == "openai":
        return
    try:
        written = list(batch_lines(io.BytesIO(content), "name", found, reading))
    except BlendError:
        return
    assert [line.endswith(b"\n") for line in written] == [True] * len(written)
    assert len(written) == len(content.split(b"\n")) - (content.endswith(b"\n") or not content)


@pytest.mark.parametrize("line", FOUND)
def test_what_fuzzing_found_stays_mended(line: bytes) -> None:
    found: Any = test_every_line_becomes_one_item_that_can_be_written_down
    found.hypothesis.inner_test(line, 1)
