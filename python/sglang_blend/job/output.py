"""Result files: whole lines appended, on disk within a second.

The output file holds the answers, the error file everything refused or failed. A line is written in one
piece; a crash can tear at most the last one. Line order is the order of finishing: match on custom_id.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO

import orjson

from sglang_blend.errors import ConfigError
from sglang_blend.job.records import Record

FSYNC_INTERVAL_S = 1.0


class LineWriter:
    """Appends records to one file as JSON lines; fsync at most once a second and at close."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        """Create `path`.

        Raises:
            ConfigError: it exists and `overwrite` is off, or it cannot be written.
        """
        self.path = path
        self.num_records = 0
        self._dirty = False
        self._synced_at = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("wb" if overwrite else "xb", buffering=0)
        except FileExistsError as e:
            raise ConfigError(
                f"{path} exists already: move it, name another file, or pass --overwrite to replace it."
            ) from e
        except OSError as e:
            raise ConfigError(f"{path} cannot be written ({e.strerror}): name another file.") from e

    def write(self, record: Record) -> None:
        """Append one record; OSError (a full disk) goes to the caller."""
        line = memoryview(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))
        while line:
            line = line[self._file.write(line) :]
        self.num_records += 1
        self._dirty = True
        if time.monotonic() - self._synced_at >= FSYNC_INTERVAL_S:
            self.sync()

    def sync(self) -> None:
        """Put what was written on disk."""
        if self._dirty:
            os.fsync(self._file.fileno())
            self._dirty = False
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        if not self._file.closed:
            self.sync()
            self._file.close()


class JobOutput:
    """The two result files of a job; a context manager that closes both.

    A job that fails before its first record leaves no files: the corrected command can be given as it is.
    """

    def __init__(self, output: Path, errors: Path, *, overwrite: bool) -> None:
        """Create both files.

        Raises:
            ConfigError: one exists and `overwrite` is off, or cannot be written.
        """
        if not overwrite and errors.exists():
            raise ConfigError(
                f"{errors} exists already: move it, name another file, or pass --overwrite to replace it."
            )
        self.answers = LineWriter(output, overwrite=overwrite)
        try:
            self.errors = LineWriter(errors, overwrite=overwrite)
        except ConfigError:
            self.answers.close()
            raise

    def __enter__(self) -> JobOutput:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self.close()
        if exc_type is not None and not self.num_records:
            self.answers.path.unlink()
            self.errors.path.unlink()

    @property
    def num_records(self) -> int:
        """Records in both files."""
        return self.answers.num_records + self.errors.num_records

    def close(self) -> None:
        """Sync and close both files."""
        self.answers.close()
        self.errors.close()
