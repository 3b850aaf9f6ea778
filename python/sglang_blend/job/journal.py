"""Where records are appended as whole lines, and found again by the next run.

    journal.claim()         nobody else writes it from now on
    journal.read()          what earlier runs left, line by line; the last may be torn
    journal.open(keep)      go on after the lines worth keeping
    journal.append(line)    one whole line
    journal.sync()          on disk now; called every second by a thread of `output`

A plain local file is written line by line, so a killed process loses nothing. A `.gz` or `.zst` file grows by
complete members (gzip) or frames (zstd), one each sync, so a killed process loses at most what came since the
last one; both formats allow appending. `parts` holds the storages that know no append.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from sglang_blend.errors import ConfigError, OutputError
from sglang_blend.job.packing import Packing, TornError, lines_of, unpack
from sglang_blend.location import Location

logger = logging.getLogger(__name__)

MAX_BLOCK_BYTES = 32 << 20  # lines held back for one compressed block, at most


class Journal(Protocol):
    """Append-only JSON Lines. Claim, read, open, in this order; the claim is held until `close`."""

    @property
    def place(self) -> Location: ...

    def exists(self) -> bool:
        """Whether an earlier run left anything."""

    def read(self) -> Iterator[bytes]:
        """Every line, with its \\n; a torn last line comes without. Before `open`."""

    def claim(self) -> None:
        """Take it for this job; where there is nothing yet, an empty file may appear.

        Raises:
            ConfigError: it cannot be written, or another job is writing it.
        """

    def open(self, keep: bytearray) -> None:
        """Get ready to append.

        Args:
            keep: a flag for each line that `read` gave; the others are taken out, the last ones by cutting
                the file, any others by writing it anew under a temporary name. Empty: begin empty.

        Raises:
            OutputError: the lines cannot be taken out.
        """

    def append(self, line: bytes) -> None:
        """Add one line that ends in \\n.

        Raises:
            OutputError: it cannot be written; what was there before stays as it was.
        """

    def sync(self) -> None:
        """Put all appended lines on the storage. Safe to call from another thread.

        Raises:
            OutputError: it failed, or the file was taken away.
        """

    def tick(self) -> None:
        """`sync` where that is due; called every `--fsync-interval` seconds."""

    def close(self) -> None:
        """Sync and release; nothing happens the second time."""

    def remove(self) -> None:
        """Delete it."""

    def remove_empty(self) -> None:
        """Delete it where `claim` made it and it has no lines. After `close`."""


def cannot_write(place: Location, error: OSError) -> OutputError:
    """The sentence for a storage that refuses."""
    return OutputError(
        f"{place} cannot be written any more ({error.strerror or error}); what had finished before is kept: "
        "mend that and give the same command again to go on."
    )


class PlainFile:
    """A local file, one write a line: killing the process tears nothing, a power cut the last second."""

    def __init__(self, path: Path) -> None:
        self.place = path
        self._file: IO[bytes] | None = None
        self._end = 0  # bytes of whole lines
        self._is_new = False  # set by claim
        self._dirty = False

    def exists(self) -> bool:
        return self.place.exists() and self.place.stat().st_size > 0

    def claim(self) -> None:
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self._is_new = not self.place.exists()
            self._file = self.place.open("ab", buffering=0)
        except OSError as e:
            raise ConfigError(f"{self.place} cannot be written ({e.strerror}): name another file.") from e
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.close()
            raise ConfigError(
                f"{self.place} is being written by another job: wait for it, or name another --output."
            ) from e
        except OSError:
            logger.debug("%s: this file system has no locks", self.place)

    def read(self) -> Iterator[bytes]:
        with self.place.open("rb") as file:
            yield from file

    def open(self, keep: bytearray) -> None:
        try:
            if num_kept := keep.count(1):
                if keep.rfind(1) >= num_kept:
                    self._file = _write_anew(self._opened, self.place, _kept(self.read(), keep))
                self._end = sum(map(len, itertools.islice(self.read(), num_kept)))
            os.ftruncate(self._opened.fileno(), self._end)
            _sync_directory(self.place.parent)
        except OSError as e:
            raise cannot_write(self.place, e) from e

    def append(self, line: bytes) -> None:
        self._write(line)
        self._dirty = True

    def sync(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        try:
            os.fsync(self._opened.fileno())
            mine, there = os.fstat(self._opened.fileno()), os.stat(self.place)
        except FileNotFoundError as e:
            raise self._gone() from e
        except OSError as e:
            raise cannot_write(self.place, e) from e
        if not os.path.samestat(mine, there):
            raise self._gone()

    def tick(self) -> None:
        self.sync()

    def close(self) -> None:
        if self._file is not None and not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def remove(self) -> None:
        self.place.unlink(missing_ok=True)

    def remove_empty(self) -> None:
        if self._is_new and not self.exists():
            self.remove()

    @property
    def _opened(self) -> IO[bytes]:
        assert self._file is not None, "claim() comes first"
        return self._file

    def _write(self, data: bytes) -> None:
        """Add all of it, or leave the file as it was."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._opened.write(rest) :]
        except OSError as e:
            os.ftruncate(self._opened.fileno(), self._end)
            raise cannot_write(self.place, e) from e
        self._end += len(data)

    def _gone(self) -> OutputError:
        return OutputError(
            f"{self.place} was moved or deleted while the job was writing it: put it back to keep what had "
            "finished, and give the same command again."
        )


class PackedFile(PlainFile):
    """A local .gz or .zst file, one block a sync: a killed process loses what came since the last."""

    def __init__(self, path: Path, packing: Packing) -> None:
        super().__init__(path)
        self._packing = packing
        self._lines: list[bytes] = []
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._is_torn = False

    def read(self) -> Iterator[bytes]:
        self._is_torn = False
        with self.place.open("rb") as file:
            yield from lines_of(self._pieces(file))

    def open(self, keep: bytearray) -> None:
        try:
            if keep.count(1):
                if self._is_torn or 0 in keep:
                    blocks = map(self._packing.compress, blocks_of(_kept(self.read(), keep)))
                    self._file = _write_anew(self._opened, self.place, blocks)
                self._end = self.place.stat().st_size
            os.ftruncate(self._opened.fileno(), self._end)
            _sync_directory(self.place.parent)
        except OSError as e:
            raise cannot_write(self.place, e) from e

    def append(self, line: bytes) -> None:
        with self._lock:
            self._lines.append(line)
            self._num_bytes += len(line)
            if self._num_bytes >= MAX_BLOCK_BYTES:
                self._write_block()

    def sync(self) -> None:
        with self._lock:
            if self._lines:
                self._write_block()
        super().sync()

    def _write_block(self) -> None:
        self._write(self._packing.compress(b"".join(self._lines)))
        self._lines, self._num_bytes, self._dirty = [], 0, True

    def _pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        try:
            yield from unpack(file, self._packing)
        except TornError:
            self._is_torn = True


def _kept(lines: Iterator[bytes], keep: bytearray) -> Iterator[bytes]:
    return (line for line, flag in zip(lines, keep, strict=False) if flag)


def blocks_of(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines in blocks of some megabytes."""
    block, num_bytes = [], 0
    for line in lines:
        block.append(line)
        num_bytes += len(line)
        if num_bytes >= MAX_BLOCK_BYTES:
            yield b"".join(block)
            block, num_bytes = [], 0
    if block:
        yield b"".join(block)


def _write_anew(locked: IO[bytes], path: Path, pieces: Iterator[bytes]) -> IO[bytes]:
    """Replace a file under a temporary name; returns it opened for appending, and locked like the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    file = temporary.open("ab", buffering=0)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.replace(path)
    except BaseException:
        file.close()
        temporary.unlink(missing_ok=True)
        raise
    locked.close()
    return file


def _sync_directory(directory: Path) -> None:
    """A new name survives a power cut only when its directory is on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
