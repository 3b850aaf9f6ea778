"""What earlier runs of the same job left: found in the result files, checked line by line, counted.

The result files are the only truth about what is finished. A line that is no whole record (torn by a power
cut), that repeats a request, or whose request is to be tried again, is taken out; its request runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

from sglang_blend.job.journal import Journal
from sglang_blend.job.line_index import LineIndex
from sglang_blend.job.records import Record, error_of
from sglang_blend.job.summary import Tally

_LINES_AT_ONCE = 4096


class Recovered(NamedTuple):
    """Flags of the lines to keep in each of the two files, for `Journal.open`, and what they amount to."""

    keep_answers: bytearray
    keep_errors: bytearray
    tally: Tally


def recover(
    index: LineIndex, answers: Journal, errors: Journal, *, is_final: Callable[[Record], bool]
) -> Recovered:
    """Mark in `index` what is done, by the two files; returns which of their lines stay.

    Args:
        is_final: whether the failure in this error record stands, or is to be tried again. Not asked for
            lines that are refused without an engine: those would be refused again.
    """
    tally = Tally()
    kept_answers, kept_errors = bytearray(), bytearray()
    for records in _records(answers):
        ids = [r["custom_id"] if _is_answer(r) else "" for r in records]
        for record, row in zip(records, index.rows_of(ids).tolist(), strict=True):
            keep = _is_answer(record) and _mark(index, row)
            kept_answers.append(keep)
            if keep:
                tally.add_answer_record(record)
    for records in _records(errors):
        numbers = [_line_number(r) for r in records]
        for record, row in zip(records, index.rows_of_lines(numbers).tolist(), strict=True):
            stands = row < len(index) and (not index.is_accepted(row) or is_final(record))
            keep = stands and _mark(index, row)
            kept_errors.append(keep)
            if keep:
                tally.add_error_record(record)
    return Recovered(kept_answers, kept_errors, tally)


def numbers_of_answers(index: LineIndex, lines: list[bytes]) -> list[int]:
    """Line number in the input of each line of the output."""
    rows = index.rows_of([orjson.loads(line)["custom_id"] for line in lines])
    numbers: list[int] = index.line_numbers(rows).tolist()
    return numbers


def numbers_of_errors(lines: list[bytes]) -> list[int]:
    """Line number in the input of each line of the error file."""
    return [_line_number(orjson.loads(line)) for line in lines]


def _mark(index: LineIndex, row: int) -> bool:
    """Mark a line as done; False where there is no such line, or it was done before."""
    if row == len(index) or index.is_done(row):
        return False
    index.mark_done(row)
    return True


def _records(journal: Journal) -> Iterator[list[Any]]:
    """The journal's lines, parsed, some thousands at a time; None for a line that is no whole record."""
    if not journal.exists():
        return
    records: list[Any] = []
    for line in journal.read():
        records.append(_parsed(line))
        if len(records) == _LINES_AT_ONCE:
            yield records
            records = []
    yield records


def _parsed(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _is_answer(record: Record | None) -> bool:
    if record is None or not isinstance(record.get("custom_id"), str):
        return False
    response = record.get("response")
    return isinstance(response, dict) and response.get("status_code") == 200


def _line_number(record: Record | None) -> int:
    """0, which no line has, where the record does not tell."""
    number = error_of(record).get("line") if record else None
    return number if isinstance(number, int) and 0 < number < 1 << 62 else 0
