"""The input's bytes, wherever they lie: plain, seekable, on a local disk.

A plain local file is read where it is. A packed one (.gz, .zst) is unpacked, a remote one fetched, into a
file without a name in the work directory, which goes with the process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sglang_blend.errors import ConfigError, InputError, OutputError
from sglang_blend.job.packing import Packing, TornError, packing_of_content, packing_of_name, unpack
from sglang_blend.location import Location, Url, in_words, may_pass


def stamp_of(place: Location) -> str | None:
    """Changes when the file does: name, size, and what the storage says about its content or time of change.

    None where that cannot be told, or there is no such file.
    """
    try:
        if isinstance(place, Path):
            found = place.stat()
            return f"{in_words(place.resolve())} {found.st_size} {found.st_mtime_ns}"
        info = place.ask(lambda file_system, path: file_system.info(path))
    except (OSError, ConfigError):
        return None
    marks = [str(info[key]) for key in ("ETag", "etag", "md5Hash", "blob_id", "sha") if info.get(key)]
    return " ".join([str(place), str(info.get("size")), *marks]) if marks else None


class Unchanged:
    """Sees whether an open file is still what it was, though somebody may write over it in place."""

    def __init__(self, file: IO[bytes]) -> None:
        file.flush()
        self._file = file
        self._digest: str | None = None
        self._stamp = self._now()

    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal; of the disk, not of what was read ahead."""
        digest, at = hashlib.sha256(), 0
        while block := os.pread(self._file.fileno(), 1 << 20, at):
            digest.update(block)
            at += len(block)
        self._digest = self._digest or digest.hexdigest()
        return digest.hexdigest()

    def __bool__(self) -> bool:
        """A look at size and times; where they differ, at the content."""
        now = self._now()
        if now == self._stamp:
            return True
        first = self._digest
        if first is None or self.digest() != first:
            return False
        self._stamp = now
        return True

    def _now(self) -> tuple[int, ...]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_plain(place: Location, work_dir: Path, *, named: str = "--file ") -> IO[bytes]:
    """Open the plain content for reading.

    Args:
        work_dir: for an unpacked or fetched copy, without a name.
        named: what comes before the place in an error message.

    Raises:
        InputError: it is missing, a directory, unreadable, or not what its name says.
    """
    file = _open_local(place, named) if isinstance(place, Path) else _fetched(place, work_dir, named)
    head = file.read(4)
    file.seek(0)
    packing = packing_of_content(head)
    if packing is None:
        expected = packing_of_name(place.name)
        if expected is None:
            return file
        file.close()
        raise InputError(
            f"{named}{place} is named {expected.suffix} but is not {expected.name}: "
            "rename it, or pack it again."
        )
    with file:
        return _unpacked(place, file, packing, work_dir, named)


def _open_local(path: Path, named: str) -> IO[bytes]:
    if path.is_dir():
        raise InputError(f"{named}{path} is a directory: name one file.")
    if str(path) == "-" or (path.exists() and not path.is_file()):
        raise InputError(
            f"{named}{path} is no file on a disk: a job reads its input more than once, so save it as one."
        )
    if not path.exists():
        raise InputError(
            f"{named}{path} does not exist: name a batch file (.jsonl, .jsonl.gz, .parquet ...)."
        )
    try:
        return path.open("rb")
    except OSError as e:
        raise InputError(f"{named}{path} cannot be read ({e.strerror}): check its permissions.") from e


def _fetched(url: Url, work_dir: Path, named: str) -> IO[bytes]:
    local = temporary_file(work_dir)

    def fetch(file_system: Any, path: str) -> None:
        local.seek(0)
        local.truncate()
        with file_system.open(path, "rb") as remote:
            while piece := remote.read(1 << 20):
                with room_in(work_dir):
                    local.write(piece)
        with room_in(work_dir):
            local.flush()

    try:
        url.ask(fetch)
    except FileNotFoundError as e:
        discard(local)
        raise InputError(f"{named}{url} does not exist: name a batch file.") from e
    except OSError as e:
        discard(local)
        raise InputError(f"{named}{url} cannot be fetched ({e}).", may_pass=may_pass(e)) from e
    except BaseException:
        discard(local)
        raise
    local.seek(0)
    return local


def _unpacked(place: Location, packed: IO[bytes], packing: Packing, work_dir: Path, named: str) -> IO[bytes]:
    plain = temporary_file(work_dir)
    try:
        with room_in(work_dir):
            for piece in unpack(packed, packing):
                plain.write(piece)
            plain.flush()
    except OutputError:
        discard(plain)
        raise
    except TornError as e:
        discard(plain)
        raise InputError(
            f"{named}{place} is a damaged {packing.name} file ({e}): fetch or pack it again."
        ) from e
    plain.seek(0)
    return plain


def discard(file: IO[bytes]) -> None:
    """Close a temporary file that is not needed any more, also where its last bytes find no room."""
    with suppress(OSError):
        file.close()


@contextmanager
def room_in(work_dir: Path) -> Iterator[None]:
    """Around writing a temporary file.

    Raises:
        OutputError: it cannot be written, most likely because the disk is full.
    """
    try:
        yield
    except OSError as e:
        raise OutputError(
            f"{work_dir} cannot hold the job's temporary files ({e.strerror or e}): make room, or name "
            "another --work-dir, and give the same command again."
        ) from e


def temporary_file(work_dir: Path) -> IO[bytes]:
    """A file without a name.

    Raises:
        ConfigError: the directory cannot be written.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=work_dir)
    except OSError as e:
        raise ConfigError(
            f"{work_dir} cannot be written ({e.strerror}): name another --work-dir, or another --output."
        ) from e
