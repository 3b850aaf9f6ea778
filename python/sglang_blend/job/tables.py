"""Tables of prompts - Parquet, or JSON Lines as Hugging Face datasets have them - as batch lines.

    {"id": 7, "prompt": "The capital of France is", "max_tokens": 8, "source": "geography"}

becomes the batch line

    {"custom_id": "7", "method": "POST", "url": "/v1/completions", "body": {"prompt": ..., "max_tokens": 8}}

Columns named like a parameter of the endpoint are that parameter, null where the row has none; other columns
are left alone. Row `i` becomes line `i`, and is then checked as any line of a batch file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import IO, Any

import orjson

from sglang_blend.config import ID_COLUMNS, PROMPT_COLUMNS, Reading
from sglang_blend.errors import InputError
from sglang_blend.extras import require_extra
from sglang_blend.job.body_check import FIELDS
from sglang_blend.job.lines import UTF8_BOM, bounded_lines

PARQUET_MAGIC = b"PAR1"
_BATCH_KEYS = frozenset(("method", "url", "body"))
_ROWS_AT_ONCE = 1024
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def format_of(file: IO[bytes], name: str, reading: Reading) -> str:
    """Which format a file has, `auto` being settled by a look at its beginning.

    Raises:
        InputError: it has batch lines, and what was asked for is for tables: it would do nothing.
    """
    if reading.input_format != "auto":
        if reading.input_format == "openai":
            _refuse_what_is_for_tables(name, reading)
        return reading.input_format
    head = file.read(len(PARQUET_MAGIC))
    file.seek(0)
    if head == PARQUET_MAGIC:
        return "parquet"
    row = _first_row(file)
    if row is None:
        return "openai"
    if reading.prompt_column in row.keys() - _BATCH_KEYS:
        return "jsonl"  # whatever else it has: pages have a url, too
    if not _BATCH_KEYS.isdisjoint(row):
        _refuse_what_is_for_tables(name, reading)
        return "openai"
    is_table = reading.for_tables() or any(column in row for column in PROMPT_COLUMNS)
    return "jsonl" if is_table else "openai"


def _first_row(file: IO[bytes]) -> dict[str, Any] | None:
    """The first line that is a JSON object, behind bad ones; the file stands at its beginning after."""
    rows = (_row(raw, number) for number, (raw, _) in enumerate(bounded_lines(file), start=1))
    first = next((row for row in rows if row is not None), None)
    file.seek(0)
    return first


def _row(raw: bytes, number: int) -> dict[str, Any] | None:
    try:
        row = orjson.loads(raw.removeprefix(UTF8_BOM) if number == 1 else raw)
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _refuse_what_is_for_tables(name: str, reading: Reading) -> None:
    if given := reading.for_tables():
        raise InputError(
            f"{given[0]} is for tables of prompts, and --file {name} is a batch file, whose lines have "
            "bodies of their own: leave it out."
        )


def batch_lines(file: IO[bytes], name: str, table_format: str, reading: Reading) -> Iterator[bytes]:
    """A table's rows as batch lines, each with its \\n. A row that is no JSON object stays as it is.

    Raises:
        InputError: the file is no such table, or has no column for prompts.
    """
    return _of_parquet(file, name, reading) if table_format == "parquet" else _of_jsonl(file, name, reading)


def _of_jsonl(file: IO[bytes], name: str, reading: Reading) -> Iterator[bytes]:
    columns: _Columns | None = None
    for number, (raw, _) in enumerate(bounded_lines(file), start=1):
        row = _row(raw, number)
        if row is None:
            yield raw if raw.endswith(b"\n") else raw + b"\n"
            continue
        columns = columns or _Columns(name, list(row), reading)
        yield columns.line(row, number)


def _of_parquet(file: IO[bytes], name: str, reading: Reading) -> Iterator[bytes]:
    require_extra("parquet", f"{name}, which is Parquet,")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        columns = _Columns(name, table.schema_arrow.names, reading)
        number = 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns.used):
            for row in batch.to_pylist():
                number += 1
                yield columns.line(row, number)
    except pyarrow.ArrowException as e:
        raise InputError(f"{name} cannot be read as Parquet ({e}): write or fetch it again.") from e


class _Columns:
    """Which column is what: prompt and id by the first row, parameters row by row."""

    def __init__(self, name: str, columns: list[str], reading: Reading) -> None:
        self._reading = reading
        self._prompt = _chosen(name, columns, "--prompt-column", reading.prompt_column, PROMPT_COLUMNS)
        if self._prompt is None:
            raise InputError(
                f"{name} has no column {' or '.join(PROMPT_COLUMNS)}: name one of {', '.join(columns)} "
                "with --prompt-column."
            )
        self._id = _chosen(name, columns, "--id-column", reading.id_column, ID_COLUMNS)
        known = {column for url in (_CHAT, _COMPLETIONS) for column in FIELDS[url]}
        self._params = known - {self._prompt, self._id, *PROMPT_COLUMNS}
        self._columns = columns

    @property
    def used(self) -> list[str]:
        """Columns that are read at all."""
        wanted = {self._prompt, self._id, *self._params}
        return [column for column in self._columns if column in wanted]

    def line(self, row: dict[str, Any], number: int) -> bytes:
        """One batch line."""
        assert self._prompt is not None, "checked at the beginning"
        prompt: Any = row.get(self._prompt)
        body: dict[str, Any]
        url, body = _COMPLETIONS, {"prompt": prompt}
        if isinstance(prompt, list) and all(isinstance(item, dict) for item in prompt):
            url, body = _CHAT, {"messages": [_without_nulls(message) for message in prompt]}
        elif self._reading.prompt_as == "chat" and isinstance(prompt, str):
            url, body = _CHAT, {"messages": [{"role": "user", "content": prompt}]}
        body |= self._reading.params
        body |= {name: value for name, value in row.items() if name in self._params and not _is_null(value)}
        found = row.get(self._id) if self._id else f"row-{number}"
        custom_id = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
        line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE, default=str)


def _chosen(
    name: str, columns: list[str], flag: str, wanted: str | None, usual: tuple[str, ...]
) -> str | None:
    if wanted is not None and wanted not in columns:
        raise InputError(f"{flag} {wanted}: {name} has no such column; it has {', '.join(columns)}.")
    return wanted or next((column for column in usual if column in columns), None)


def _is_null(value: object) -> bool:
    """Table tools write NaN for a number that is not there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """All messages of a Parquet column have the keys of all others."""
    return {key: value for key, value in message.items() if value is not None}
