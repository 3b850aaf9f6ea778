"""Where files lie: a local path, or an address such as `s3://bucket/batch.jsonl`.

Addresses are served by fsspec; the package behind a scheme (`s3fs` for `s3://`) is imported when it is used.
A storage that refuses for a reason that may pass is asked again for some minutes.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit

from sglang_blend.blotting import without_signatures
from sglang_blend.errors import BlendError, ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long a storage is asked again, and how long at most from one time to the next.
PATIENCE_S = 300.0
_MAX_PAUSE_S = 30.0
# What the same request would meet again; some storages raise these without a number.
_LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_LASTING_NUMBERS = (
    *(
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EINVAL,
        errno.ENAMETOOLONG,
        errno.EMSGSIZE,
        errno.ENOSYS,
    ),
    errno.EREMCHG,  # S3: the bucket is elsewhere
)
_ONE_SLASH = re.compile(r"(s3|gs|gcs|hf|https?|az|abfs|file):/(?!/)")


@dataclass(frozen=True)
class Url:
    """A file on a remote storage, named like a `Path` is.

    Its query (a signature, on a web server) and who it names before the host are for the storage alone: no
    name, message or record has them. `text` is the whole address.
    """

    text: str

    def __str__(self) -> str:
        return without_signatures(self.text)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def with_name(self, name: str) -> Url:
        """The file `name` in the same folder."""
        return Url(f"{str(self).rpartition('/')[0]}/{name}")

    def __truediv__(self, name: str) -> Url:
        """The file `name` in this folder."""
        return Url(f"{self}/{name}")

    def connect(self) -> tuple[Any, str]:
        """(fsspec file system, path on it).

        Raises:
            ConfigError: the scheme is unknown, or its package is not installed.
        """
        import fsspec

        try:
            # Listings are never taken from a cache: other processes write to the same storage.
            file_system, path = fsspec.core.url_to_fs(self.text, use_listings_cache=False)
        except ImportError as e:
            extra = f"sglang-blend[{self.scheme}]" if self.scheme == "s3" else "the fsspec package it names"
            raise ConfigError(f"{self}: {e}. Install {extra}, or use a local file.") from e
        except ValueError as e:
            raise ConfigError(
                f"{self}: {e}. Local paths and fsspec's schemes (s3, gs, hf, http, https) are served."
            ) from e
        return file_system, path

    def ask(self, request: Callable[[Any, str], T]) -> T:
        """What `request(file system, path)` returns; asked again while the storage refuses and that may pass.

        Raises:
            OSError: it refuses for good, or for `PATIENCE_S`.
        """
        started, pause_s = time.monotonic(), 1.0
        while True:
            try:
                with remote_errors():
                    return request(*self.connect())
            except OSError as e:
                left_s = started + PATIENCE_S - time.monotonic()
                if not may_pass(e) or left_s <= 0:
                    raise
                logger.warning("%s: the storage refuses (%s); it is asked again for %.0f s.", self, e, left_s)
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)


Location = Path | Url
PACKED_SUFFIXES = (".gz", ".zst")


def location(text: str) -> Location:
    """From the command line: anything with `://` is an address, `file://` and the rest are paths.

    Raises:
        argparse.ArgumentTypeError: an address that lacks a slash, which would be taken for a folder, or a
            file of another machine.
    """
    if found := _ONE_SLASH.match(text):
        raise argparse.ArgumentTypeError(f"{text} has one slash too few: {found[1]}://{text[found.end() :]}")
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise argparse.ArgumentTypeError(
                f"{text} is a file of the machine {parts.netloc}: a local one is file:///PATH."
            )
        return Path(unquote(text.removeprefix(f"file://{parts.netloc}"), errors="surrogateescape"))
    return Url(text) if "://" in text else Path(text)


def identity(place: Location) -> str:
    """The same text for two names of one file, links included."""
    if isinstance(place, Url):
        return str(place)
    try:
        found = place.stat()
    except OSError:
        return str(place.resolve())
    return f"file {found.st_ino} of device {found.st_dev}"


def in_words(place: Location) -> str:
    """A place as text that can be written anywhere; bytes of a path that are not UTF-8 are escaped."""
    return os.fsencode(place).decode(errors="backslashreplace") if isinstance(place, Path) else str(place)


def may_pass(error: OSError) -> bool:
    """Whether the same request may succeed later, as when a network or a server is down."""
    return not isinstance(error, _LASTING) and error.errno not in _LASTING_NUMBERS


@contextmanager
def remote_errors() -> Iterator[None]:
    """Storages raise errors of their own; here they are OSErrors, as those of a disk are."""
    try:
        yield
    except (OSError, BlendError):
        raise
    except Exception as e:
        words = f"{type(e).__name__}: {e}"
        if "Credentials" in words or isinstance(e, TypeError | ValueError | NotImplementedError):
            raise PermissionError(errno.EACCES, words) from e
        raise OSError(words) from e


def size_of(place: Location) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        if isinstance(place, Path):
            return place.stat().st_size
        return place.ask(lambda file_system, path: int(file_system.size(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def names_in(folder: Location) -> list[str]:
    """Names of what is in a folder; none where there is no such folder."""
    try:
        if isinstance(folder, Path):
            return os.listdir(folder)
        found = folder.ask(lambda file_system, path: list(file_system.ls(path, detail=False)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path.rpartition("/")[2] for path in found]


def plain_name(name: str) -> str:
    """`batch.jsonl` of `batch.jsonl.gz`."""
    return next((name.removesuffix(suffix) for suffix in PACKED_SUFFIXES if name.endswith(suffix)), name)


def read_small(place: Location) -> bytes | None:
    """The whole content of a small file; None where there is none.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        if isinstance(place, Path):
            return place.read_bytes()
        return place.ask(lambda file_system, path: bytes(file_system.cat_file(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def create_small(place: Location, content: bytes) -> bool:
    """Write a small file that is not there yet; whether it is there now, with this content.

    Of several that try at a time one succeeds, where the storage has conditional writes (local disks, S3,
    GCS, Azure); elsewhere the last one does, and the others learn it when they look again.

    Raises:
        OSError: it is not there, and cannot be written.
    """
    try:
        if isinstance(place, Path):
            with place.open("xb") as file:
                file.write(content)
        else:
            place.ask(lambda file_system, path: file_system.pipe_file(path, content, mode="create"))
    except OSError:
        if read_small(place) is None:
            raise
    return read_small(place) == content


def replace_small(place: Location, content: bytes) -> None:
    """Write a small file whole or not at all: under a temporary name first, where the storage needs that.

    Directories are not created: one that vanished while a job ran may be about to be put back.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(place, Url):
        place.ask(lambda file_system, path: file_system.pipe_file(path, content))
        return
    with replacing(place, tag=f".{os.getpid()}") as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, tag: str = "") -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends: whole and on disk, or not at all.

    It has the mode of the one that it replaces, and of a link it replaces what the link names.

    Args:
        tag: tells apart the temporary names of those who may write at one time; without one, what a killed
            process left is used up by the next.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}{tag}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("ab") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o7777)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_directory(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """A new name survives a power cut only when its directory is on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(place: Location) -> None:
    """Delete a file that may be absent."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if isinstance(place, Path):
            place.unlink()
        else:
            place.ask(lambda file_system, path: file_system.rm_file(path))
