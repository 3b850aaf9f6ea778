"""A result file in its two states: growing, and done.

A local .jsonl, .jsonl.gz or .jsonl.zst grows as what it is. Anything else grows as a journal beside it - part
files on a storage without append, `NAME.partial.jsonl` for Parquet - and is made from it in one step when the
job is done. While the done file exists it is the whole truth and a journal beside it is a leftover of that
step; so the journal is brought back, and the done file removed, before a job goes on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sglang_blend.extras import require_extra
from sglang_blend.job.journal import Journal, PackedFile, PlainFile, blocks_of, cannot_write
from sglang_blend.job.packing import packing_of_name
from sglang_blend.job.parquet_records import read_table, write_table
from sglang_blend.job.parts import Parts
from sglang_blend.job.sorting import NumbersOf, in_input_order
from sglang_blend.job.source import open_plain
from sglang_blend.location import Location, Url, remote_errors, remove, size_of


class ResultFile:
    """A `Journal` that becomes its file when `finish` is called."""

    def __init__(
        self, place: Location, work_dir: Path, *, as_parquet: bool = False, as_parts: bool = False
    ) -> None:
        """Make a result file.

        Args:
            as_parts: it grows as parts on any storage, and stays so when the job is done.

        Raises:
            ConfigError: Parquet is asked for without pyarrow.
        """
        if as_parquet:
            require_extra("parquet", "--output-format parquet")
        self.place = place
        self._work_dir = work_dir
        self._as_parquet = as_parquet
        self._grows_as_itself = as_parts or (isinstance(place, Path) and not as_parquet)
        self._parts = Parts(folder_url(parts_folder(place))) if as_parts else None
        self._journal = self._parts or self._journal_of(place)

    @property
    def growing(self) -> Location:
        """Where records are while the job is not done."""
        return self._journal.place

    def num_bytes(self) -> int:
        """Of what is done; 0 where there is nothing."""
        return (size_of(self.place) or 0) if self._parts is None else self._parts.num_bytes()

    def exists(self) -> bool:
        return self._is_done() or self._journal.exists()

    def read(self) -> Iterator[bytes]:
        return self._read_done() if self._is_done() else self._journal.read()

    def claim(self) -> None:
        self._journal.claim()

    def open(self, keep: bytearray) -> None:
        if not self._is_done():
            self._journal.open(keep)
            return
        self._journal.open(bytearray())
        if keep:
            for line, flag in zip(self._read_done(), keep, strict=False):
                if flag:
                    self._journal.append(line)
            self._journal.sync()
        remove(self.place)

    def append(self, line: bytes) -> None:
        self._journal.append(line)

    def sync(self) -> None:
        self._journal.sync()

    def tick(self) -> None:
        self._journal.tick()

    def close(self) -> None:
        self._journal.close()

    def remove(self) -> None:
        self._journal.remove()

    def remove_empty(self) -> None:
        self._journal.remove_empty()

    def finish(self, numbers_of: NumbersOf | None) -> None:
        """Make the file of a job that is done. After `close`.

        Args:
            numbers_of: bring the records into the order of the input, by these line numbers; None: leave them
                in the order of finishing.

        Raises:
            OutputError: it cannot be written; the journal stays.
        """
        if self._grows_as_itself and numbers_of is None:
            return
        lines = self._journal.read()
        if numbers_of is not None:
            lines = in_input_order(lines, numbers_of, self._work_dir)
        try:
            self._publish(lines)
        except OSError as e:
            raise cannot_write(self.place, e) from e
        if not self._grows_as_itself:
            self._journal.remove()

    def _is_done(self) -> bool:
        return not self._grows_as_itself and size_of(self.place) is not None

    def _read_done(self) -> Iterator[bytes]:
        with open_plain(self.place, self._work_dir, named="") as file:
            yield from read_table(file) if self._as_parquet else file

    def _publish(self, lines: Iterator[bytes]) -> None:
        """Write under a temporary name, then rename or upload."""
        directory = self.place.parent if isinstance(self.place, Path) else self._work_dir
        descriptor, name = tempfile.mkstemp(prefix=f".{self.place.name}.", dir=directory)
        temporary = Path(name)
        os.close(descriptor)
        try:
            self._write(temporary, lines)
            if isinstance(self.place, Path):
                temporary.chmod(self._journal_mode())
                temporary.replace(self.place)
            else:
                with remote_errors():
                    file_system, path = self.place.connect()
                    file_system.put_file(str(temporary), path)
        finally:
            temporary.unlink(missing_ok=True)

    def _journal_mode(self) -> int:
        """Permissions of the growing file, which a temporary name does not have."""
        growing = self._journal.place
        assert isinstance(growing, Path), "a local file grows beside itself"
        return growing.stat().st_mode

    def _write(self, path: Path, lines: Iterator[bytes]) -> None:
        if self._as_parquet:
            write_table(path, lines)
            return
        packing = packing_of_name(self.place.name)
        with path.open("wb") as file:
            for block in blocks_of(lines):
                file.write(packing.compress(block) if packing else block)
            file.flush()
            os.fsync(file.fileno())

    def _journal_of(self, place: Location) -> Journal:
        if isinstance(place, Url):
            return Parts(folder_url(parts_folder(place)))
        if self._as_parquet:
            return PlainFile(place.with_name(f"{place.name}.partial.jsonl"))
        packing = packing_of_name(place.name)
        return PackedFile(place, packing) if packing else PlainFile(place)


def parts_folder(place: Location) -> Location:
    """Where the parts of an output lie."""
    return place.with_name(f"{place.name}.parts")


def folder_url(folder: Location) -> Url:
    """As `Parts` takes it."""
    return folder if isinstance(folder, Url) else Url(f"file://{folder.resolve()}")
