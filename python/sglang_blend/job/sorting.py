"""Lines brought into the order of the input, whatever their number: sorted runs on disk, then merged."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from sglang_blend.job.source import temporary_file

RUN_BYTES = 256 << 20
_LINES_AT_ONCE = 4096
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
    """
    with ExitStack() as stack:
        runs: list[Iterator[Numbered]] = []
        for run in _runs(_numbered(lines, numbers_of), run_bytes):
            file = stack.enter_context(temporary_file(work_dir))
            for number, line in run:
                file.write(_HEADER.pack(number, len(line)))
                file.write(line)
            file.seek(0)
            runs.append(_read(file))
        for _, line in heapq.merge(*runs, key=lambda numbered: numbered[0]):
            yield line


def _numbered(lines: Iterator[bytes], numbers_of: NumbersOf) -> Iterator[Numbered]:
    some: list[bytes] = []
    for line in lines:
        some.append(line)
        if len(some) == _LINES_AT_ONCE:
            yield from zip(numbers_of(some), some, strict=True)
            some = []
    yield from zip(numbers_of(some), some, strict=True)


def _runs(numbered: Iterator[Numbered], run_bytes: int) -> Iterator[list[Numbered]]:
    run: list[Numbered] = []
    num_bytes = 0
    for item in numbered:
        run.append(item)
        num_bytes += len(item[1])
        if num_bytes >= run_bytes:
            yield sorted(run, key=lambda numbered: numbered[0])
            run, num_bytes = [], 0
    yield sorted(run, key=lambda numbered: numbered[0])


def _read(file: IO[bytes]) -> Iterator[Numbered]:
    while header := file.read(_HEADER.size):
        number, num_bytes = _HEADER.unpack(header)
        yield number, file.read(num_bytes)
