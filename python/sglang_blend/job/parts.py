"""Records on a storage that knows no append: numbered part files, each a complete object.

`s3://bucket/answers.jsonl` grows as `s3://bucket/answers.jsonl.parts/00000001-5f0c2a91.jsonl`,
`00000002-5f0c2a91.jsonl` ...; a part holds what came since the last one, half a minute of records or 32 MiB.
Its name ends with the run that wrote it, so no run overwrites what another has. `result_file` makes one
object of them when the job is done.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from sglang_blend.errors import ConfigError, OutputError
from sglang_blend.job.journal import MAX_BLOCK_BYTES, cannot_write
from sglang_blend.job.lease import Lease
from sglang_blend.job.packing import lines_of
from sglang_blend.location import Location, may_pass, names_in, read_small, remove, replace_small, size_of

PART_INTERVAL_S = 30.0
_MOST_BLOCKS_WAITING = 4  # appending waits for the storage then
_LEASE_NAME = ".lease"


class Parts:
    """`Journal` over part files. A killed process loses what came since the last part.

    It knows the parts that were there at the first look, and those that it wrote: it reads and deletes no
    others.
    """

    def __init__(self, folder: Location, *, interval_s: float = PART_INTERVAL_S) -> None:
        self.place = folder
        self._interval_s = interval_s
        self._lease = Lease(folder / _LEASE_NAME, of=folder)
        self._run = new_run()
        self._found: list[str] | None = None  # at the first look; then these and those of this run
        self._next_number = 1
        self._lines: list[bytes] = []
        self._num_bytes = 0
        self._written_at = time.monotonic()
        self._buffer_lock = threading.Lock()
        self._write_lock = threading.Lock()  # held while a part is on its way; appending goes on

    def exists(self) -> bool:
        return bool(_part_names(self.place))

    def claim(self) -> None:
        try:
            if isinstance(self.place, Path):
                self.place.mkdir(parents=True, exist_ok=True)
            self._lease.take()
        except OSError as e:
            raise ConfigError(
                f"{self.place} cannot be written ({e}): name another --output.",
                may_pass=may_pass(e),
            ) from e

    def numbers(self) -> dict[str, int]:
        """Of the parts that are there now, by name."""
        return {name: number_of(name) for name in _part_names(self.place)}

    def num_bytes(self) -> int:
        """Of all parts that are there now."""
        return sum(size_of(self.place / name) or 0 for name in _part_names(self.place))

    def read(self) -> Iterator[bytes]:
        for name in self._known():
            yield from self._lines_of(name)

    def open(self, keep: bytearray) -> None:
        known = self._known()
        try:
            if 0 in keep or not keep:
                self._take_out(keep)
        except OSError as e:
            raise cannot_write(self.place, e) from e
        self._next_number = 1 + max(map(number_of, known), default=0)

    def append(self, line: bytes) -> None:
        with self._buffer_lock:
            self._lines.append(line)
            self._num_bytes += len(line)
            is_too_much = self._num_bytes >= _MOST_BLOCKS_WAITING * MAX_BLOCK_BYTES
        if is_too_much:
            self.sync()

    def sync(self) -> None:
        with self._write_lock:
            with self._buffer_lock:
                lines, self._lines, self._num_bytes = self._lines, [], 0
            if not lines:
                return
            name = part_name(self._next_number, self._run)
            try:
                replace_small(self.place / name, b"".join(lines))
            except OSError as e:
                with self._buffer_lock:  # for the last try, when the job closes
                    self._lines[:0] = lines
                raise cannot_write(self.place, e) from e
            self._known().append(name)
            self._next_number += 1
            self._written_at = time.monotonic()

    def tick(self) -> None:
        try:
            self._lease.tick()
        except OSError as e:
            raise cannot_write(self.place, e) from e
        if self._num_bytes >= MAX_BLOCK_BYTES or time.monotonic() - self._written_at >= self._interval_s:
            self.sync()

    def check(self) -> None:
        try:
            self._lease.check()
        except OSError as e:
            raise cannot_write(self.place, e) from e

    def close(self) -> None:
        try:
            self.sync()
        finally:
            self._lease.release()

    def remove(self) -> None:
        for name in self._known():
            remove(self.place / name)
        self._found = []

    def remove_empty(self) -> None:
        """Without lines there are no parts; a folder of a local disk is there all the same."""
        if isinstance(self.place, Path):
            with contextlib.suppress(OSError):
                self.place.rmdir()

    def _known(self) -> list[str]:
        """Names of the parts, in the order they were written."""
        if self._found is None:
            self._found = _part_names(self.place)
        return self._found

    def _take_out(self, keep: bytearray) -> None:
        """Write the parts that lose a line anew; delete those that lose all."""
        at = 0
        for name in list(self._known()):
            lines = list(self._lines_of(name))
            flags, at = keep[at : at + len(lines)], at + len(lines)
            kept = [line for line, flag in zip(lines, flags, strict=False) if flag]
            if not kept:
                remove(self.place / name)
                self._known().remove(name)
            elif len(kept) < len(lines):
                replace_small(self.place / name, b"".join(kept))

    def _lines_of(self, name: str) -> Iterator[bytes]:
        place = self.place / name
        try:
            content = read_small(place)
        except OSError as e:
            raise OutputError(
                f"{place} cannot be read ({e}): give the same command again.", may_pass=may_pass(e)
            ) from e
        if content is None:
            raise OutputError(f"{place} was deleted while the job was at work: give the same command again.")
        return lines_of(iter([content]))


def new_run() -> str:
    """What tells the parts of one run from those of all others."""
    return uuid.uuid4().hex[:8]


def part_name(number: int, run: str) -> str:
    return f"{number:08}-{run}.jsonl"


def number_of(name: str) -> int:
    """Of a part; 0 for any other file."""
    number, _, _ = name.removesuffix(".jsonl").partition("-")
    return int(number) if number.isdecimal() and name.endswith(".jsonl") else 0


def _part_names(folder: Location) -> list[str]:
    """What is there now, in the order it was written."""
    return sorted(filter(number_of, names_in(folder)), key=lambda name: (number_of(name), name))
