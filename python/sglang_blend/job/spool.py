"""The accepted requests of a job: what planning needs of each as columns, and where its line stands.

Filled once, line by line; then `table()` hands the planner a `RequestTable` whose token ids are mapped
from a temporary file, so memory grows with the number of lines and not with their length.
"""

from __future__ import annotations

import tempfile
from array import array
from pathlib import Path

from sglang_blend.core.request import RequestTable
from sglang_blend.core.table_builder import TableBuilder
from sglang_blend.job.source import discard, room_in, temporary_file
from sglang_blend.request import BatchLine, Prepared


class RequestSpool:
    """Collects prepared requests in file order: row `i` is the `i`-th of them. A context manager."""

    def __init__(self, work_dir: Path | None = None) -> None:
        """Args: work_dir: for the token file, which has no name and goes with the process."""
        self._work_dir = work_dir or Path(tempfile.gettempdir())
        self._tokens = temporary_file(self._work_dir)
        self._builder = TableBuilder(self._tokens)
        self._line_number = array("q")
        self._line_offset = array("q")
        self._table: RequestTable | None = None  # set by table

    def __enter__(self) -> RequestSpool:
        return self

    def __exit__(self, *exc: object) -> None:
        discard(self._tokens)

    def __len__(self) -> int:
        return len(self._builder)

    def append(self, line: BatchLine, prepared: Prepared) -> None:
        """Add one request. Not after `table()`.

        Raises:
            OutputError: the disk of the work directory is full.
        """
        assert self._table is None, "the spool is closed for appending"
        with room_in(self._work_dir):
            self._builder.append(prepared)
        self._line_number.append(line.line_number)
        self._line_offset.append(line.offset)

    def table(self) -> RequestTable:
        """All requests, for the planner. The arrays live as long as the spool is open."""
        if self._table is None:
            with room_in(self._work_dir):
                self._table = self._builder.table()
        return self._table

    def position(self, row: int) -> tuple[int, int]:
        """(byte offset, line number) of a request in the batch file."""
        return self._line_offset[row], self._line_number[row]
