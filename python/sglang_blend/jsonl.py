"""JSON as this package writes it: of what models say, and lines of records.

    lines = BoundedLines(path)
    lines.append({"steps": 3})     # a full disk or a missing folder is one warning
    lines.close()

The records of a job lie in such files: they are worth having, and never worth failing for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import IO, Any

import orjson

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8. What UTF-8 cannot carry (half a surrogate pair in a model's text) becomes `?`.

    Raises:
        TypeError: it is no JSON, or nested deeper than orjson writes (254 levels).
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as e:
        if "surrogates" not in str(e):
            raise
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


class BoundedLines:
    """A file of JSON lines that is only ever appended to, never grows beyond a bound, and never stops its
    writer. Opened at the first line; appends to what is there, after cutting a last line that was torn."""

    def __init__(self, path: Path, *, max_bytes: int = MOST_BYTES) -> None:
        """Args: max_bytes: of the whole file, earlier runs included; further lines are left out."""
        self._path = path
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._num_bytes = 0
        self._is_over = False

    def append(self, value: Any) -> None:
        """Write one line."""
        if not self._is_over:
            option = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
            self.append_lines(orjson.dumps(value, option=option))

    def append_lines(self, lines: bytes) -> None:
        """Write one or more whole lines."""
        if self._is_over:
            return
        try:
            file = self._file or self._open()
            if self._num_bytes + len(lines) > self._max_bytes:
                self._give_up(f"it has reached {self._max_bytes / 2**20:.0f} MiB")
                return
            file.write(lines)
            self._num_bytes += len(lines)
        except OSError as e:
            self._give_up(e.strerror or str(e))

    def flush(self) -> None:
        """Hand to the operating system what was appended."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as e:
                self._give_up(e.strerror or str(e))

    def close(self) -> None:
        """Nothing is appended any more."""
        self.flush()
        self._end()

    def _open(self) -> IO[bytes]:
        self._file = file = open(self._path, "ab")  # noqa: SIM115 - open until close
        self._num_bytes = _without_torn_line(self._path)
        return file

    def _give_up(self, reason: str) -> None:
        logger.warning("%s gets no more lines (%s); the job goes on without.", self._path, reason)
        self._end()

    def _end(self) -> None:
        file, self._file, self._is_over = self._file, None, True
        if file is not None:
            with contextlib.suppress(OSError):  # of lines that were given up already
                file.close()


def _without_torn_line(path: Path) -> int:
    """Cut what follows the last line end; returns the bytes that stay."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            begin = max(end - 4096, 0)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            file.truncate(end)
    return end
