"""What earlier runs of the same job left: found in the result files, checked line by line, counted.

The result files are the only truth about what is finished. A line that is no whole record (torn by a power
cut), that repeats a request, or whose request is to be tried again, is taken out; its request runs again. Of
a record only what is counted is held, however large its answer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import orjson

from sglang_blend.errors import OutputError
from sglang_blend.job.journal import Journal
from sglang_blend.job.line_index import LineIndex
from sglang_blend.job.packing import batches_of
from sglang_blend.job.records import Record, error_of, is_refusal
from sglang_blend.job.summary import Tally, Usage
from sglang_blend.location import Location


class Recovered(NamedTuple):
    """Flags of the lines to keep in each of the two files, for `Journal.open`, and what they amount to."""

    keep_answers: bytearray
    keep_errors: bytearray
    tally: Tally


class _Answer(NamedTuple):
    """What is held of an answer's record."""

    custom_id: str
    usage: Usage


class _Error(NamedTuple):
    """What is held of a failed line's record. `line` 0, which no line has: the record does not tell."""

    line: int
    code: str
    is_refusal: bool


def recover(
    index: LineIndex, answers: Journal, errors: Journal, *, is_final: Callable[[bool], bool]
) -> Recovered:
    """Mark in `index` what is done, by the two files; returns which of their lines stay.

    Args:
        is_final: whether a line's failure stands, or is to be tried again; told whether it was a refusal. Not
            asked for lines that are refused without an engine: those would be refused again.
    """
    tally = Tally()
    kept_answers, kept_errors = bytearray(), bytearray()
    for lines in _lines(answers):
        found = [_answer(line) for line in lines]
        rows = index.rows_of([answer.custom_id if answer else "" for answer in found])
        for answer, row in zip(found, rows.tolist(), strict=True):
            keep = answer is not None and _mark(index, row)
            kept_answers.append(keep)
            if answer is not None and keep:
                tally.add_earlier_answer(answer.usage)
    for lines in _lines(errors):
        failed = [_error(line) for line in lines]
        for error, row in zip(failed, index.rows_of_lines([e.line for e in failed]).tolist(), strict=True):
            stands = row < len(index) and (not index.is_accepted(row) or is_final(error.is_refusal))
            keep = stands and _mark(index, row)
            kept_errors.append(keep)
            if keep:
                tally.add_earlier_error(error.code, is_refusal=error.is_refusal)
    return Recovered(kept_answers, kept_errors, tally)


class Census:
    """A last look at a result file: each line belongs to a line of the input, and no two to one.

    census.numbers(lines)     line numbers in the input, some lines at a time
    census.close()            raises where lines are missing
    """

    def __init__(self, index: LineIndex, place: Location, num_lines: int, *, of_errors: bool = False) -> None:
        """Args: num_lines: what the file has by the job's own count."""
        self._index, self._place, self._num_lines = index, place, num_lines
        self._of_errors = of_errors
        self._seen = bytearray(len(index))
        self._num_seen = 0

    def numbers(self, lines: list[bytes]) -> list[int]:
        """Line number in the input of each line of the file.

        Raises:
            OutputError: a line is no record, belongs to no line of the input, or to one that has a record.
        """
        if self._of_errors:
            rows = self._index.rows_of_lines([_error(line).line for line in lines])
        else:
            found = [_answer(line) for line in lines]
            rows = self._index.rows_of([answer.custom_id if answer else "" for answer in found])
        for row in rows.tolist():
            if row == len(self._index) or self._seen[row]:
                raise self._differs("a record that is not this job's, or is there twice")
            self._seen[row] = True
        self._num_seen += len(lines)
        numbers: list[int] = self._index.line_numbers(rows).tolist()
        return numbers

    def close(self) -> None:
        """Raises: OutputError: there are fewer records than the job has written."""
        if self._num_seen != self._num_lines:
            raise self._differs(f"{self._num_seen:,} records where this job has written {self._num_lines:,}")

    def counted(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """The same lines, all of them looked at."""
        for some in batches_of(lines):
            self.numbers(some)
            yield from some
        self.close()

    def _differs(self, what: str) -> OutputError:
        return OutputError(
            f"{self._place} has {what}: another job may write it too. Nothing was published; the same "
            "command goes on with what is there."
        )


def _mark(index: LineIndex, row: int) -> bool:
    """Mark a line as done; False where there is no such line, or it was done before."""
    if row == len(index) or index.is_done(row):
        return False
    index.mark_done(row)
    return True


def _lines(journal: Journal) -> Iterator[list[bytes]]:
    return batches_of(journal.read()) if journal.exists() else iter(())


def _answer(line: bytes) -> _Answer | None:
    """None where the line is no whole record of an answer."""
    record = _parsed(line)
    custom_id, response = record.get("custom_id"), record.get("response")
    if not isinstance(custom_id, str) or not isinstance(response, dict):
        return None
    usage = Usage.of_body(response.get("body"))
    return _Answer(custom_id, usage) if usage is not None and response.get("status_code") == 200 else None


def _error(line: bytes) -> _Error:
    record = _parsed(line)
    error, response = error_of(record), record.get("response")
    number = error.get("line")
    code = error.get("code") or (response.get("status_code") if isinstance(response, dict) else None)
    line_number = number if isinstance(number, int) and 0 < number < 1 << 62 else 0
    return _Error(line_number, str(code), is_refusal(record))


def _parsed(line: bytes) -> Record:
    """Empty where the line is torn or no JSON object."""
    try:
        record = orjson.loads(line) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}
