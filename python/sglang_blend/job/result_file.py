"""A result file in its two states: growing, and done.

A local .jsonl, .jsonl.gz or .jsonl.zst grows as what it is. Anything else grows as a journal beside it - part
files on a storage without append, `NAME.partial.jsonl` for Parquet - and is made from it in one step when the
job is done. While the done file exists it is the whole truth and a journal beside it is a leftover of that
step; so the journal is brought back, and the done file removed, before a job goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from sglang_blend.extras import require_extra
from sglang_blend.job.journal import Journal, PackedFile, PlainFile, blocks_of, cannot_write
from sglang_blend.job.packing import packing_of_name
from sglang_blend.job.parquet_records import read_table, write_table
from sglang_blend.job.parts import Parts
from sglang_blend.job.source import open_plain, room_in, temporary_file
from sglang_blend.location import Location, Url, remove, replacing, size_of

Arrange = Callable[[Iterator[bytes]], Iterator[bytes]]


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
        self._parts = Parts(parts_folder(place)) if as_parts else None
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

    def check(self) -> None:
        self._journal.check()

    def finish(self, arrange: Arrange, *, anew: bool) -> None:
        """Make the file of a job that is done. While it is claimed, with everything appended and synced.

        Args:
            arrange: what the file is to hold, of all that was appended; it raises where that is not right.
            anew: also where the file grew as itself, and could stay as it is.

        Raises:
            OutputError: it cannot be written; the journal stays.
        """
        try:
            if not self._grows_as_itself:
                self._publish(arrange(self._journal.read()))
            elif anew:
                assert isinstance(self._journal, PlainFile), "parts stay as they are"
                self._journal.rewrite(arrange(self._journal.read()))
        except OSError as e:
            raise cannot_write(self.place, e) from e

    def remove_journal(self) -> None:
        """Delete what the file was made from, when all the job is done."""
        if not self._grows_as_itself:
            self._journal.remove()

    def _is_done(self) -> bool:
        return not self._grows_as_itself and size_of(self.place) is not None

    def _read_done(self) -> Iterator[bytes]:
        with open_plain(self.place, self._work_dir, named="") as file:
            yield from read_table(file) if self._as_parquet else file

    def _publish(self, lines: Iterator[bytes]) -> None:
        """Write it whole: under a temporary name, or beside the job and then uploaded."""
        place = self.place
        if isinstance(place, Path):
            with replacing(place) as file:
                self._write(file, lines)
            return
        with temporary_file(self._work_dir) as file:
            with room_in(self._work_dir):
                self._write(file, lines)
                file.flush()
            nameless = f"/proc/self/fd/{file.fileno()}"
            place.ask(lambda file_system, path: file_system.put_file(nameless, path))

    def _write(self, file: IO[bytes], lines: Iterator[bytes]) -> None:
        if self._as_parquet:
            write_table(file, lines)
            return
        packing = packing_of_name(self.place.name)
        for block in blocks_of(lines):
            file.write(packing.compress(block) if packing else block)

    def _journal_of(self, place: Location) -> Journal:
        if isinstance(place, Url):
            return Parts(parts_folder(place))
        if self._as_parquet:
            return PlainFile(place.with_name(f"{place.name}.partial.jsonl"))
        packing = packing_of_name(place.name)
        return PackedFile(place, packing) if packing else PlainFile(place)


def parts_folder(place: Location) -> Location:
    """Where the parts of an output lie."""
    return place.with_name(f"{place.name}.parts")
