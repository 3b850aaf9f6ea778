"""Where records are appended as whole lines, and found again by the next run.

    journal.claim()         nobody else writes it from now on, until `close`
    journal.read()          what earlier runs left, line by line; the last may be torn
    journal.open(keep)      go on after the lines worth keeping
    journal.append(line)    one whole line
    journal.sync()          on disk now; called every second by a thread of `output`
    journal.check()         raises when somebody else wrote it all the same

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from sglang_blend.errors import ConfigError, OutputError
from sglang_blend.job.lease import Lease
from sglang_blend.job.packing import Packing, TornError, batches_of, lines_of, unpack
from sglang_blend.location import Location, may_pass, replacing, sync_directory

logger = logging.getLogger(__name__)

MAX_BLOCK_BYTES = 32 << 20  # lines held back for one compressed block, at most


class Journal(Protocol):
    """Append-only JSON Lines. Claim, read, open, in this order; the claim is held until `close`."""

    @property
    def place(self) -> Location: ...

    def exists(self) -> bool:
        """Whether an earlier run left anything."""

    def read(self) -> Iterator[bytes]:
        """Every line, with its \\n; a torn last line comes without. Before `open`, or after `sync`."""

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
        """`sync` where that is due, and keep the claim; called every `--fsync-interval` seconds.

        Raises:
            OutputError: as `sync`, or another job writes it.
        """

    def check(self) -> None:
        """See that nobody else has written it.

        Raises:
            OutputError: another job has.
        """

    def close(self) -> None:
        """Sync and give up the claim; nothing happens the second time."""

    def remove(self) -> None:
        """Delete it."""

    def remove_empty(self) -> None:
        """Delete it where `claim` made it and it has no lines. After `close`."""


def cannot_write(place: Location, error: OSError) -> OutputError:
    """The sentence for a storage that refuses."""
    return OutputError(
        f"{place} cannot be written any more ({error.strerror or error}); what had finished before is kept: "
        "mend that and give the same command again to go on.",
        may_pass=may_pass(error),
    )


class PlainFile:
    """A local file, one write a line: killing the process tears nothing, a power cut the last second."""

    def __init__(self, path: Path) -> None:
        self.place = path
        self._path = Path(os.path.realpath(path))  # of a link the file that it names
        self._file: IO[bytes] | None = None
        self._end = 0  # bytes of whole lines
        self._is_new = False  # set by claim
        self._dirty = False
        self._writing = threading.Lock()  # held while `_end` and the file differ
        self._lease: Lease | None = None  # where there are no locks; set by claim

    def exists(self) -> bool:
        return self.place.exists() and self.place.stat().st_size > 0

    def claim(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._is_new = not self._path.exists()
            self._file = self._open_locked()
            if self._lease is not None:
                self._lease.take()
        except BlockingIOError as e:
            raise ConfigError(
                f"{self.place} is being written by another job: wait for it, or name another --output.",
                may_pass=True,
            ) from e
        except OSError as e:
            raise ConfigError(f"{self.place} cannot be written ({e.strerror}): name another file.") from e
        except ConfigError:
            self._opened.close()
            raise

    def read(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file

    def open(self, keep: bytearray) -> None:
        num_kept = keep.count(1)
        try:
            if num_kept and self._must_rewrite(keep):
                self.rewrite(_kept(self.read(), keep))
            else:
                self._end = self._end_of(num_kept)
            os.ftruncate(self._opened.fileno(), self._end)
            sync_directory(self._path.parent)
        except OSError as e:
            raise cannot_write(self.place, e) from e

    def rewrite(self, lines: Iterator[bytes]) -> None:
        """Put these lines in the place of all that are there, in one step; the claim goes over to them.

        Raises:
            OSError: it failed; what was there is there still.
        """
        with replacing(self._path) as file:
            for piece in self._pieces_of(lines):
                file.write(piece)
            file.flush()
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Two descriptors of one open file: the lock stays until both are closed.
            new = os.fdopen(os.dup(file.fileno()), "ab", buffering=0)
        self._opened.close()
        self._file, self._end = new, os.fstat(new.fileno()).st_size

    def append(self, line: bytes) -> None:
        self._write(line)
        self._dirty = True

    def sync(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        try:
            os.fsync(self._opened.fileno())
        except OSError as e:
            raise cannot_write(self.place, e) from e
        self.check()

    def tick(self) -> None:
        self.sync()
        self._ask_lease(Lease.tick)

    def check(self) -> None:
        try:
            with self._writing:
                mine, there, end = os.fstat(self._opened.fileno()), os.stat(self.place), self._end
        except FileNotFoundError as e:
            raise self._gone() from e
        except OSError as e:
            raise cannot_write(self.place, e) from e
        if not os.path.samestat(mine, there):
            raise self._gone()
        if there.st_size != end:
            raise OutputError(
                f"{self.place} has {there.st_size:,} bytes where this job has written {end:,}: another job "
                "writes it too. End one of them, and give the same command again; what is lost runs again."
            )
        self._ask_lease(Lease.check)

    def close(self) -> None:
        if self._file is not None and not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()
                if self._lease is not None:
                    self._lease.release()

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def remove_empty(self) -> None:
        if self._is_new and not self.exists():
            self.remove()

    @property
    def _opened(self) -> IO[bytes]:
        assert self._file is not None, "claim() comes first"
        return self._file

    def _open_locked(self) -> IO[bytes]:
        """Open and lock it; raises BlockingIOError where another process has."""
        while True:
            file = self._path.open("ab", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    return file
            except BlockingIOError:
                file.close()
                raise
            except FileNotFoundError:
                pass  # its owner has put another one here, or taken it away
            except OSError as e:
                self._lease = Lease(self._path.with_name(f".{self._path.name}.lease"), of=self.place)
                logger.warning(
                    "%s: this file system has no locks (%s): a job that runs elsewhere is told by a file"
                    " beside it alone. Never start two jobs on one output here.",
                    self.place, e.strerror,
                )  # fmt: skip
                return file
            file.close()

    def _ask_lease(self, ask: Callable[[Lease], None]) -> None:
        try:
            if self._lease is not None:
                ask(self._lease)
        except OSError as e:
            raise cannot_write(self.place, e) from e

    def _must_rewrite(self, keep: bytearray) -> bool:
        """Whether lines are to be taken out that are not the last ones."""
        return keep.rfind(1) >= keep.count(1)

    def _end_of(self, num_lines: int) -> int:
        """Bytes of the first lines."""
        return sum(map(len, itertools.islice(self.read(), num_lines)))

    def _pieces_of(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        """What stands in the file for these lines."""
        return lines

    def _write(self, data: bytes) -> None:
        """Add all of it, or leave the file as it was."""
        rest = memoryview(data)
        with self._writing:
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
        with self._path.open("rb") as file:
            yield from lines_of(self._unpacked(file))

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

    def _must_rewrite(self, keep: bytearray) -> bool:
        return self._is_torn or 0 in keep

    def _end_of(self, num_lines: int) -> int:
        return self._path.stat().st_size if num_lines else 0

    def _pieces_of(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        return map(self._packing.compress, blocks_of(lines))

    def _unpacked(self, file: IO[bytes]) -> Iterator[bytes]:
        try:
            yield from unpack(file, self._packing)
        except TornError:
            self._is_torn = True


def _kept(lines: Iterator[bytes], keep: bytearray) -> Iterator[bytes]:
    return (line for line, flag in zip(lines, keep, strict=False) if flag)


def blocks_of(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines in blocks of some megabytes."""
    return map(b"".join, batches_of(lines, MAX_BLOCK_BYTES, max_lines=None))
