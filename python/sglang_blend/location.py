"""Where files lie: a local path, or an address such as `s3://bucket/batch.jsonl`.

Addresses are served by fsspec; the package behind a scheme (`s3fs` for `s3://`) is imported when it is used.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_blend.errors import ConfigError

_ONE_SLASH = re.compile(r"(s3|gs|gcs|hf|https?|az|abfs|file):/(?!/)")


@dataclass(frozen=True)
class Url:
    """A file on a remote storage, named like a `Path` is."""

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    def with_name(self, name: str) -> Url:
        """The file `name` in the same folder."""
        return Url(f"{self.text.rpartition('/')[0]}/{name}")

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
            raise ConfigError(f"{self.text}: {e}. Install {extra}, or use a local file.") from e
        except ValueError as e:
            raise ConfigError(
                f"{self.text}: {e}. Local paths and fsspec's schemes (s3, gs, hf, http, https) are served."
            ) from e
        return file_system, path


Location = Path | Url
PACKED_SUFFIXES = (".gz", ".zst")


def location(text: str) -> Location:
    """From the command line: anything with `://` is an address, `file://` and the rest are paths.

    Raises:
        argparse.ArgumentTypeError: an address that lacks a slash, which would be taken for a folder.
    """
    if found := _ONE_SLASH.match(text):
        raise argparse.ArgumentTypeError(f"{text} has one slash too few: {found[1]}://{text[found.end() :]}")
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return Url(text) if "://" in text else Path(text)


def identity(place: Location) -> str:
    """The same text for two names of one file."""
    return str(place) if isinstance(place, Url) else str(place.resolve())


@contextmanager
def remote_errors() -> Iterator[None]:
    """Storages raise errors of their own; here they are OSErrors, as those of a disk are."""
    try:
        yield
    except (OSError, ConfigError):
        raise
    except Exception as e:
        raise OSError(f"{type(e).__name__}: {e}") from e


def size_of(place: Location) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        if isinstance(place, Path):
            return place.stat().st_size
        with remote_errors():
            file_system, path = place.connect()
            return int(file_system.size(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


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
        with remote_errors():
            file_system, path = place.connect()
            content: bytes = file_system.cat_file(path)
            return content
    except (FileNotFoundError, NotADirectoryError):
        return None


def replace_small(place: Location, content: bytes) -> None:
    """Write a small file whole or not at all: under a temporary name first, where the storage needs that.

    Directories are not created: one that vanished while a job ran may be about to be put back.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(place, Url):
        with remote_errors():
            file_system, path = place.connect()
            file_system.pipe_file(path, content)
        return
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        temporary.replace(place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def remove(place: Location) -> None:
    """Delete a file that may be absent."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    with remote_errors():
        file_system, path = place.connect()
        if file_system.exists(path):
            file_system.rm_file(path)
