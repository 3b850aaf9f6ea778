"""Tables of prompts: rows become batch lines, columns become parameters, a bad row costs that row."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from job.echo_engine import EchoEngine
from job.local_files import local_files
from job.test_offline import read
from sglang_blend.config import JobConfig, Reading
from sglang_blend.errors import ConfigError, InputError
from sglang_blend.job.batch_file import BatchFile
from sglang_blend.job.offline import OfflineJob
from sglang_blend.request import BatchLine, Rejection


def items_of(path: Path, **reading: Any) -> list[BatchLine | Rejection]:
    with BatchFile(path, reading=Reading(**reading)) as batch:
        return list(batch.scan())


def table(path: Path, rows: list[dict[str, Any]], schema: Any = None) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"id": 7, "prompt": "one two", "max_tokens": 8, "temperature": 0.5, "source": "a"},
    {"id": 8, "prompt": "three", "max_tokens": None, "temperature": float("nan"), "source": "b"},
]


@pytest.mark.parametrize("make", [table, jsonl])
def test_columns_named_like_parameters_are_parameters_and_others_are_left_alone(
    tmp_path: Path, make: Any
) -> None:
    rows = ROWS if make is table else [ROWS[0], ROWS[1] | {"temperature": None}]
    first, second = items_of(make(tmp_path / "rows", rows))
    assert isinstance(first, BatchLine)
    assert isinstance(second, BatchLine)
    assert (first.custom_id, first.url) == ("7", "/v1/completions")
    assert first.body == {"prompt": "one two", "max_tokens": 8, "temperature": 0.5}
    assert second.body == {"prompt": "three"}


def test_lists_of_messages_are_chats_without_the_nulls_a_table_adds(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "hi", "name": None}]},
        {"messages": [{"role": "system", "content": "x", "name": "n"}, {"role": "user", "content": "y"}]},
    ]
    first, second = items_of(table(tmp_path / "t.parquet", rows))
    assert isinstance(first, BatchLine)
    assert isinstance(second, BatchLine)
    assert (first.custom_id, first.url) == ("row-1", "/v1/chat/completions")
    assert first.body == {"messages": [{"role": "user", "content": "hi"}]}
    assert second.body["messages"][0]["name"] == "n"


def test_texts_are_asked_as_chats_with_parameters_for_all_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"question": "Why?", "key": "a"}, {"question": "Who?", "key": "b"}])
    items = items_of(
        path, prompt_column="question", id_column="key", prompt_as="chat", params={"max_tokens": 9}
    )
    assert [item.custom_id for item in items] == ["a", "b"]
    assert isinstance(items[0], BatchLine)
    assert items[0].body == {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 9}


def test_bad_rows_are_refused_by_their_number_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b'{"prompt": "a", "id": "1"}\nnot json\n\n{"prompt": 5, "id": "4"}\n{"id": "5"}\n'
        b'{"prompt": "b", "max_tokens": "x", "id": "6"}\n{"prompt": "c", "id": null}\n'
        b'{"prompt": "d", "id": "8"}'
    )
    items = items_of(path)
    assert [(i.line_number, getattr(i, "code", "ok")) for i in items] == [
        (1, "ok"),
        (2, "invalid_json_line"),
        (4, "invalid_type"),
        (5, "invalid_type"),
        (6, "invalid_type"),
        (7, "missing_required_parameter"),
        (8, "ok"),
    ]


def test_a_batch_file_is_never_taken_for_a_table(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"custom_id": "a", "url": "/v1/completions", "prompt": "x"}])
    (item,) = items_of(path)
    assert isinstance(item, Rejection)
    assert item.code == "missing_required_parameter"


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", [{"question": "x", "n": 1}])
    with pytest.raises(InputError, match=r"no column messages or prompt or text: name one of question, n"):
        items_of(path)
    with pytest.raises(InputError, match=r"--prompt-column qestion: .* it has question, n"):
        items_of(path, prompt_column="qestion")


def test_a_damaged_table_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match=r"cannot be read as Parquet"):
        items_of(path)


def test_a_table_is_a_job_like_any_other_and_its_columns_are_part_of_it(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", ROWS)
    config = JobConfig(file=path)
    summary = OfflineJob(config).run(EchoEngine)
    assert (summary.ok, summary.failed) == (2, 0)
    assert sorted(r["custom_id"] for r in read(local_files(config).output)) == ["7", "8"]
    other = replace(config, reading=Reading(prompt_column="source"))
    with pytest.raises(ConfigError, match="another job"):
        OfflineJob(other).run(EchoEngine)


def test_rows_are_converted_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group at a time, never the whole table."""
    monkeypatch.setattr("sglang_blend.job.tables._ROWS_AT_ONCE", 2)
    path = table(tmp_path / "t.parquet", [{"prompt": f"p{i}"} for i in range(5)])
    assert [item.custom_id for item in items_of(path)] == [f"row-{i}" for i in range(1, 6)]


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        ({"params": {"max_tokens": 8}}, r'--params \{"max_tokens":8\} is for tables'),
        ({"prompt_column": "question"}, "--prompt-column question is for tables"),
        ({"prompt_as": "chat"}, "--prompt-as chat is for tables"),
        ({"input_format": "openai", "id_column": "key"}, "--id-column key is for tables"),
    ],
)
def test_what_only_a_table_heeds_is_refused_for_a_batch_file(
    tmp_path: Path, reading: dict[str, Any], words: str
) -> None:
    """Rather than doing nothing; nothing is written."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    path = jsonl(tmp_path / "batch.jsonl", [line])
    with pytest.raises(InputError, match=words):
        items_of(path, **reading)
    with pytest.raises(InputError, match="leave it out"):
        OfflineJob(JobConfig(file=path, reading=Reading(**reading))).run(EchoEngine)
    assert [found.name for found in tmp_path.iterdir()] == ["batch.jsonl"]


@pytest.mark.parametrize(
    "row", [{"text": "x", "source": "a"}, {"custom_id": "1", "text": "x", "source": "a"}]
)
def test_a_column_that_no_row_has_is_not_taken_for_a_batch_file(tmp_path: Path, row: dict[str, str]) -> None:
    """The rows' own columns are named."""
    path = jsonl(tmp_path / "rows.jsonl", [row])
    with pytest.raises(InputError, match=r"--prompt-column txt: .* it has .*text, source"):
        OfflineJob(JobConfig(file=path, reading=Reading(prompt_column="txt"))).run(EchoEngine)


def test_rows_that_nothing_marks_as_a_table_are_refused_with_the_option_that_does(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "x", "source": "a"}])
    with pytest.raises(InputError, match="name one of question, source with --prompt-column"):
        OfflineJob(JobConfig(file=path)).run(EchoEngine)
    reading = Reading(prompt_column="question")
    assert OfflineJob(JobConfig(file=path, reading=reading)).run(EchoEngine).ok == 1


def test_a_prompt_column_that_is_there_makes_a_table_of_rows_with_a_url(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "pages.jsonl", [{"url": "https://example.org/", "text": "x", "id": "a"}])
    (item,) = items_of(path, prompt_column="text", params={"max_tokens": 3})
    assert isinstance(item, BatchLine)
    assert (item.url, item.body) == ("/v1/completions", {"prompt": "x", "max_tokens": 3})


def test_parameters_for_rows_without_a_prompt_ask_for_its_column(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"custom_id": "1", "question": "x"}])
    with pytest.raises(
        InputError, match=r"no column messages or prompt or text: name one of custom_id, question"
    ):
        items_of(path, params={"max_tokens": 8})


def test_a_bad_first_line_hides_neither_a_table_nor_a_batch_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "cut\n{"prompt": "b"}\n')
    assert [getattr(item, "code", "ok") for item in items_of(path)] == ["invalid_json_line", "ok"]
    path.write_text('{"custom_id": "cut\n{"custom_id": "b", "method": "POST", "url": "/v1/completions"}\n')
    with pytest.raises(InputError, match="--prompt-as chat is for tables"):
        items_of(path, prompt_as="chat")


def test_a_byte_order_mark_hides_no_table(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": "x", "id": "a"}, {"prompt": "y", "id": "b"}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [(item.custom_id, type(item)) for item in items_of(path)] == [("a", BatchLine), ("b", BatchLine)]


@pytest.mark.parametrize("input_format", ["auto", "jsonl"])
def test_an_array_of_rows_is_refused_as_a_whole(tmp_path: Path, input_format: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"prompt": "x"},\n{"prompt": "y"}\n]\n')
    with pytest.raises(InputError, match="a JSON array, not JSON Lines"):
        items_of(path, input_format=input_format)
