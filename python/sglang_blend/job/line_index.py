"""Every line of a batch file in 42 bytes: where it stands, what its custom_id is, whether it is done.

    index = LineIndex.build(batch)           # one pass; duplicates of a custom_id are found
    index.mark_done(row)                     # for each record of earlier runs, found by `rows_of`
    for line in index.accepted(): ...        # the rest, in file order

A custom_id is kept as its 64-bit hash. Where two lines of the file have the same hash, those lines are read
again and told apart by the custom_id itself, so a collision costs time and never a line: the hash decides
only where it belongs to one line of the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sglang_blend.errors import InputError
from sglang_blend.request import BatchLine, Rejection


class LineReader(Protocol):
    """What an index needs of a batch file; see `input.BatchFile`."""

    def scan(self) -> Iterator[BatchLine | Rejection]: ...

    def item(self, offset: int, number: int) -> BatchLine | Rejection: ...

    def line(self, offset: int, number: int) -> BatchLine: ...


class LineIndex:
    """Columns over all non-blank lines in file order; row `i` is the `i`-th of them.

    Args:
        numbers: line numbers, rising.
        offsets: byte offsets.
        hashes: `hash(custom_id)` of each line; without meaning where `named` is 0.
        named: 1 where a custom_id could be read.
        accepted: 1 where envelope and body passed the checks that need no engine.
    """

    def __init__(
        self,
        reader: LineReader,
        numbers: array[int],
        offsets: array[int],
        hashes: array[int],
        named: bytearray,
        accepted: bytearray,
    ) -> None:
        self._reader = reader
        self._numbers = np.frombuffer(numbers, np.int64)
        self._offsets = np.frombuffer(offsets, np.int64)
        # Byte arrays for single rows, arrays over the same bytes for all.
        self._accepted = accepted
        self._done = bytearray(len(self))
        rows = np.flatnonzero(np.frombuffer(named, np.bool_))
        of_row = np.frombuffer(hashes, np.int64)[rows]
        order = np.argsort(of_row, kind="stable")  # stable: rows of one hash stay in file order
        self._row_by_hash = rows[order]
        self._hashes = of_row[order]
        self._first_row_of: dict[str, int] = {}
        self._first_line_of_duplicate: dict[int, int] = {}
        self._tell_apart()

    @classmethod
    def build(cls, reader: LineReader) -> LineIndex:
        """Read the file once."""
        numbers, offsets, hashes = array("q"), array("q"), array("q")
        named, accepted = bytearray(), bytearray()
        for item in reader.scan():
            numbers.append(item.line_number)
            offsets.append(item.offset)
            readable = isinstance(item, BatchLine) or item.is_readable
            named.append(readable and item.custom_id is not None)
            hashes.append(hash(item.custom_id))
            accepted.append(isinstance(item, BatchLine))
        return cls(reader, numbers, offsets, hashes, named, accepted)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def has_custom_ids(self) -> bool:
        """Whether any line has one that could be read."""
        return len(self._hashes) > 0

    @property
    def num_pending(self) -> int:
        """Accepted lines that are not done: what an engine is needed for."""
        return len(self._rows(accepted=True))

    def rows_of(self, custom_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of the line that owns each custom_id (the first that has it); `len(index)` for an unknown one.

        Args:
            custom_ids: (n,), best some thousands at a time.

        Returns:
            (n,) int64.
        """
        wanted = np.fromiter(map(hash, custom_ids), np.int64, len(custom_ids))
        rows = np.full(len(wanted), len(self), np.int64)
        at = np.searchsorted(self._hashes, wanted)
        found = np.flatnonzero(self._hash_at(at) == wanted)
        found = found[at[found] < len(self._hashes)]
        rows[found] = self._row_by_hash[at[found]]
        shared = found[self._is_hash_of_next(at[found])]
        for i in shared.tolist():
            rows[i] = self._first_row_of.get(custom_ids[i], len(self))
        return rows

    def rows_of_lines(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Row of each line number; `len(index)` for one that has no row."""
        wanted = np.asarray(numbers, np.int64)
        rows = np.searchsorted(self._numbers, wanted)
        known = rows < len(self)
        known[known] = self._numbers[rows[known]] == wanted[known]
        return np.where(known, rows, len(self))

    def line_numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Line number of each row."""
        return self._numbers[rows]

    def is_accepted(self, row: int) -> bool:
        """Whether the line needs the engine to be answered or refused."""
        return bool(self._accepted[row])

    def is_done(self, row: int) -> bool:
        """Whether the line has its record."""
        return bool(self._done[row])

    def mark_done(self, row: int) -> None:
        """The line has its record."""
        self._done[row] = True

    def refused(self) -> Iterator[Rejection]:
        """The lines refused without an engine that are not done, in file order; each is read again."""
        for row in self._rows(accepted=False).tolist():
            item = self._item(row)
            first = self._first_line_of_duplicate.get(row)
            if first is not None:
                yield Rejection(
                    code="duplicate_custom_id",
                    message=f"custom_id {item.custom_id!r} was used on line {first} already.",
                    param="custom_id",
                    line_number=item.line_number,
                    custom_id=item.custom_id,
                )
            elif isinstance(item, Rejection):
                yield item
            else:
                raise self._changed(row)

    def accepted(self) -> Iterator[BatchLine]:
        """The lines for the engine that are not done, in file order; read, but not checked again."""
        for row in self._rows(accepted=True).tolist():
            yield self._reader.line(int(self._offsets[row]), int(self._numbers[row]))

    def _tell_apart(self) -> None:
        """Read the lines whose hash is not theirs alone; of those with one custom_id the first wins."""
        same = self._hashes[1:] == self._hashes[:-1]
        shared = np.zeros(len(self._hashes), np.bool_)
        shared[1:] |= same
        shared[:-1] |= same
        for row in np.sort(self._row_by_hash[shared]).tolist():
            custom_id = self._item(row).custom_id
            if custom_id is None:
                raise self._changed(row)
            first = self._first_row_of.setdefault(custom_id, row)
            if first != row and self._accepted[row]:
                self._accepted[row] = False
                self._first_line_of_duplicate[row] = int(self._numbers[first])

    def _rows(self, *, accepted: bool) -> NDArray[np.int64]:
        """Rows that are not done, accepted or refused."""
        is_accepted, is_done = np.frombuffer(self._accepted, np.bool_), np.frombuffer(self._done, np.bool_)
        return np.flatnonzero((is_accepted == accepted) & ~is_done)

    def _item(self, row: int) -> BatchLine | Rejection:
        return self._reader.item(int(self._offsets[row]), int(self._numbers[row]))

    def _changed(self, row: int) -> InputError:
        return InputError(
            f"the batch file changed while the job was reading it (line {self._numbers[row]}): "
            "run the job again."
        )

    def _hash_at(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Hash at each place of the sorted column; any value beyond its end."""
        if not len(self._hashes):
            return np.zeros(len(at), np.int64)
        hashes: NDArray[np.int64] = self._hashes[np.minimum(at, len(self._hashes) - 1)]
        return hashes

    def _is_hash_of_next(self, at: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the place after each has the same hash."""
        same: NDArray[np.bool_] = self._hash_at(at + 1) == self._hash_at(at)
        return same & (at + 1 < len(self._hashes))
