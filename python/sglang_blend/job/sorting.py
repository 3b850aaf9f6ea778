"""Lines brought into the order of the input, whatever their number: sorted runs on disk, then merged."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from sglang_blend.job.packing import batches_of
from sglang_blend.job.source import discard, room_in, temporary_file

RUN_BYTES = 192 << 20
_LINE_OVERHEAD_BYTES = 160  # of a numbered line in memory
_HEADER = struct.Struct("<qq")  # line number in the input, bytes of the line

Numbered = tuple[int, bytes]
NumbersOf = Callable[[list[bytes]], list[int]]


def in_input_order(
    lines: Iterator[bytes], numbers_of: NumbersOf, work_dir: Path, *, run_bytes: int = RUN_BYTES
) -> Iterator[bytes]:
    """Sort lines by the number of the input line they belong to; equal numbers keep their order.

    Args:
        numbers_of: line numbers of some lines, looked up together.
        run_bytes: lines held in memory at a time.

    Raises:
        OutputError: the work directory is full.
    """
    with ExitStack() as stack:
        runs: list[Iterator[Numbered]] = []
        for run in _runs(_numbered(lines, numbers_of), run_bytes):
            file = temporary_file(work_dir)
            stack.callback(discard, file)
            with room_in(work_dir):
                for number, line in run:
                    file.write(_HEADER.pack(number, len(line)))
                    file.write(line)
                file.seek(0)
            runs.append(_read(file))
            del run  # before the next one is collected
        for _, line in heapq.merge(*runs, key=lambda numbered: numbered[0]):
            yield line


def _numbered(lines: Iterator[bytes], numbers_of: NumbersOf) -> Iterator[Numbered]:
    for some in batches_of(lines):
        yield from zip(numbers_of(some), some, strict=True)


def _runs(numbered: Iterator[Numbered], run_bytes: int) -> Iterator[list[Numbered]]:
    """Each sorted."""
    run: list[Numbered] = []
    num_bytes = 0
    for item in numbered:
        run.append(item)
        num_bytes += len(item[1]) + _LINE_OVERHEAD_BYTES
        if num_bytes >= run_bytes:
            run.sort(key=lambda numbered: numbered[0])
            yield run
            run, num_bytes = [], 0
    run.sort(key=lambda numbered: numbered[0])
    yield run


def _read(file: IO[bytes]) -> Iterator[Numbered]:
    while header := file.read(_HEADER.size):
        number, num_bytes = _HEADER.unpack(header)
        yield number, file.read(num_bytes)
