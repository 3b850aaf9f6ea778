"""The accepted requests of a job as columns, token ids in a temporary file.

Filled once, line by line; then `table()` hands the planner a `RequestTable` whose token ids are mapped
from the file, so memory grows with the number of lines and not with their length.
"""

from __future__ import annotations

import tempfile
from array import array
from pathlib import Path

import numpy as np

from sglang_blend.core import RequestTable
from sglang_blend.job.source import discard, room_in, temporary_file
from sglang_blend.request import BatchLine, Prepared


class RequestSpool:
    """Collects prepared requests in file order: row `i` is the `i`-th of them. A context manager."""

    def __init__(self, work_dir: Path | None = None) -> None:
        """Args: work_dir: for the token file, which has no name and goes with the process."""
        self._work_dir = work_dir or Path(tempfile.gettempdir())
        self._tokens = temporary_file(self._work_dir)
        self._offsets = array("q", [0])
        self._max_new_tokens = array("q")
        self._fixed_output = array("b")
        self._namespace = array("i")
        self._namespace_numbers: dict[str, int] = {}
        self._line_number = array("q")
        self._line_offset = array("q")
        self._token_ids: np.ndarray[tuple[int], np.dtype[np.int32]] | None = None

    def __enter__(self) -> RequestSpool:
        return self

    def __exit__(self, *exc: object) -> None:
        discard(self._tokens)

    def __len__(self) -> int:
        return len(self._line_number)

    def append(self, line: BatchLine, prepared: Prepared) -> None:
        """Add one request. Not after `table()`.

        Raises:
            OutputError: the disk of the work directory is full.
        """
        assert self._token_ids is None, "the spool is closed for appending"
        with room_in(self._work_dir):
            self._tokens.write(np.asarray(prepared.token_ids, np.int32).tobytes())
        self._offsets.append(self._offsets[-1] + len(prepared.token_ids))
        self._max_new_tokens.append(prepared.max_new_tokens)
        self._fixed_output.append(prepared.fixed_output)
        self._namespace.append(
            self._namespace_numbers.setdefault(prepared.namespace, len(self._namespace_numbers))
        )
        self._line_number.append(line.line_number)
        self._line_offset.append(line.offset)

    def table(self) -> RequestTable:
        """All requests, for the planner. The arrays live as long as the spool is open."""
        with room_in(self._work_dir):
            self._tokens.flush()
        if self._offsets[-1]:
            self._token_ids = np.memmap(self._tokens, dtype=np.int32, mode="r")
        else:
            self._token_ids = np.empty(0, np.int32)
        return RequestTable(
            token_ids=self._token_ids,
            offsets=np.asarray(self._offsets, np.int64),
            max_new_tokens=np.asarray(self._max_new_tokens, np.int64),
            fixed_output=np.asarray(self._fixed_output, np.bool_),
            namespace=np.asarray(self._namespace, np.int32),
        )

    def position(self, row: int) -> tuple[int, int]:
        """(byte offset, line number) of a request in the batch file."""
        return self._line_offset[row], self._line_number[row]

    def max_new_tokens(self, row: int) -> int:
        """Cap on the output of a request, tokens."""
        return self._max_new_tokens[row]
