"""Records on a storage that knows no append: numbered part files, each a complete object.

`s3://bucket/answers.jsonl` grows as `s3://bucket/answers.jsonl.parts/00000001.jsonl`, `00000002.jsonl` ...; a
part holds what came since the last one, half a minute of records or 32 MiB. `result_file` makes one object of
them when the job is done.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sglang_blend.errors import ConfigError
from sglang_blend.job.journal import MAX_BLOCK_BYTES, cannot_write
from sglang_blend.job.packing import lines_of
from sglang_blend.location import Url, remote_errors

PART_INTERVAL_S = 30.0


class Parts:
    """`Journal` over part files. A killed process loses what came since the last part."""

    def __init__(self, folder: Url, *, interval_s: float = PART_INTERVAL_S) -> None:
        self.place = folder
        self._interval_s = interval_s
        self._file_system: Any = None  # connected on first use
        self._path = ""
        self._next_number = 1
        self._lines: list[bytes] = []
        self._num_bytes = 0
        self._written_at = time.monotonic()
        self._buffer_lock = threading.Lock()
        self._write_lock = threading.Lock()  # held while a part is on its way; appending goes on

    def exists(self) -> bool:
        return bool(self._parts())

    def claim(self) -> None:
        """Object storages have no locks; one small object shows that this one takes any."""
        try:
            with remote_errors():
                if self.place.scheme == "file":  # others have no folders, and would make a bucket
                    self._connect().makedirs(self._path, exist_ok=True)
                self._connect().pipe_file(f"{self._path}/.writable", b"")
                self._connect().rm_file(f"{self._path}/.writable")
        except OSError as e:
            raise ConfigError(f"{self.place} cannot be written ({e}): name another --output.") from e

    def numbers(self) -> list[int]:
        """Of the parts that are there, rising."""
        return [_number(part) for part in self._parts()]

    def num_bytes(self) -> int:
        """Of all parts."""
        with remote_errors():
            return sum(int(self._connect().size(part)) for part in self._parts())

    def read(self) -> Iterator[bytes]:
        for part in self._parts():
            yield from lines_of(self._pieces(part))

    def open(self, keep: bytearray) -> None:
        parts = self._parts()
        try:
            with remote_errors():
                if 0 in keep or not keep:
                    self._take_out(parts, keep)
        except OSError as e:
            raise cannot_write(self.place, e) from e
        self._next_number = 1 + max((_number(part) for part in parts), default=0)

    def append(self, line: bytes) -> None:
        with self._buffer_lock:
            self._lines.append(line)
            self._num_bytes += len(line)
            is_full = self._num_bytes >= MAX_BLOCK_BYTES
        if is_full:
            self.sync()

    def sync(self) -> None:
        with self._write_lock:
            with self._buffer_lock:
                lines, self._lines, self._num_bytes = self._lines, [], 0
            if not lines:
                return
            try:
                with remote_errors():
                    self._connect().pipe_file(self._part(self._next_number), b"".join(lines))
            except OSError as e:
                with self._buffer_lock:  # for the last try, when the job closes
                    self._lines[:0] = lines
                raise cannot_write(self.place, e) from e
            self._next_number += 1
            self._written_at = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self._written_at >= self._interval_s:
            self.sync()

    def close(self) -> None:
        self.sync()

    def remove(self) -> None:
        with remote_errors():
            for part in self._parts():
                self._connect().rm_file(part)

    def remove_empty(self) -> None:
        """Without lines there are no parts; a folder of a local disk is there all the same."""
        if self.place.scheme == "file":
            with contextlib.suppress(OSError):
                Path(self._connect_path()).rmdir()

    def _take_out(self, parts: list[str], keep: bytearray) -> None:
        """Write the parts that lose a line anew; delete those that lose all."""
        at = 0
        for part in parts:
            lines = list(lines_of(self._pieces(part)))
            flags, at = keep[at : at + len(lines)], at + len(lines)
            kept = [line for line, flag in zip(lines, flags, strict=False) if flag]
            if not kept:
                self._connect().rm_file(part)
            elif len(kept) < len(lines):
                self._connect().pipe_file(part, b"".join(kept))

    def _pieces(self, part: str) -> Iterator[bytes]:
        with self._connect().open(part, "rb") as file:
            while piece := file.read(1 << 20):
                yield piece

    def _parts(self) -> list[str]:
        """Paths of all parts, in the order they were written."""
        try:
            with remote_errors():
                found = self._connect().ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return sorted((path for path in found if _number(path)), key=_number)

    def _part(self, number: int) -> str:
        return f"{self._path}/{number:08}.jsonl"

    def _connect_path(self) -> str:
        self._connect()
        return self._path

    def _connect(self) -> Any:
        if self._file_system is None:
            self._file_system, self._path = self.place.connect()
        return self._file_system


def _number(path: str) -> int:
    """Of a part; 0 for any other file."""
    stem = path.rpartition("/")[2].removesuffix(".jsonl")
    return int(stem) if stem.isdecimal() and path.endswith(".jsonl") else 0
