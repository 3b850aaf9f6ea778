"""Answers that a replica writes itself, in parts beside the output (`--sharded-output`).

A part is a small file that appears whole: `batch.output.jsonl.parts/100000007-5f0c2a91.jsonl` is the seventh
of the first replica that was launched, in the run 5f0c2a91. An answer counts when its part is there and the
driver has been told, so what a lost replica wrote last and could not tell is taken away again, and runs
elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from sglang_blend.job.journal import MAX_BLOCK_BYTES, cannot_write
from sglang_blend.job.output import record_line
from sglang_blend.job.parts import Parts, part_name
from sglang_blend.job.records import response_record
from sglang_blend.location import Location, remove, replace_small
from sglang_blend.request import Answer

PART_INTERVAL_S = 10.0
_LAUNCH_SIZE = 10**8  # parts of one replica, at most


class PartsTarget(NamedTuple):
    """Where a replica writes.

    Attributes:
        folder: of all parts of the output.
        launch: number of the replica among all that were launched, from 1.
        run: of the job, as its parts are named.
        interval_s: how long an answer may wait for its part; what is lost with a replica is computed again.
    """

    folder: Location
    launch: int
    run: str
    interval_s: float = PART_INTERVAL_S


class Written(NamedTuple):
    """One part: its number, and the rows in it with their answers, bodies left out."""

    number: int
    done: list[tuple[int, Answer]]


class PartWriter:
    """Collects answers and writes them part by part."""

    def __init__(self, target: PartsTarget, on_written: Callable[[Written], None]) -> None:
        """Args: on_written: told in the event loop, when a part is there."""
        self._target, self._on_written = target, on_written
        self._lines: list[bytes] = []
        self._done: list[tuple[int, Answer]] = []
        self._num_bytes = 0
        self._number = target.launch * _LAUNCH_SIZE
        self._has_reason = asyncio.Event()

    @property
    def num_unwritten(self) -> int:
        """Answers that wait for their part."""
        return len(self._done)

    def add(self, row: int, custom_id: str, answer: Answer) -> None:
        """Take an answer with status 200."""
        line = record_line(response_record(custom_id, answer.status_code, answer.body))
        self._lines.append(line)
        self._done.append((row, answer._replace(body={}, is_written=True)))
        self._num_bytes += len(line)
        if self._num_bytes >= MAX_BLOCK_BYTES:
            self.hurry()

    def hurry(self) -> None:
        """Write at once what is there: nothing more is coming soon, or there is enough."""
        self._has_reason.set()

    async def run(self) -> None:
        """Write a part now and then, for ever.

        Raises:
            OutputError: the storage refuses.
        """
        while True:
            try:
                async with asyncio.timeout(self._target.interval_s):
                    await self._has_reason.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def flush(self) -> None:
        """Write what is there.

        Raises:
            OutputError: the storage refuses.
        """
        self._has_reason.clear()
        if not self._lines:
            return
        lines, done = self._lines, self._done
        self._lines, self._num_bytes = [], 0
        self._number += 1
        place = self._target.folder / part_name(self._number, self._target.run)
        try:
            await asyncio.to_thread(_write, place, b"".join(lines))
        except OSError as e:
            raise cannot_write(place, e) from e
        self._done = self._done[len(done) :]
        self._on_written(Written(self._number, done))


def discard_untold(target: PartsTarget, told: Iterable[int]) -> int:
    """Take away the parts that a lost replica wrote and the driver never heard of; returns their number.

    Raises:
        OutputError: the storage refuses.
    """
    known = set(told)
    first = target.launch * _LAUNCH_SIZE
    untold = [
        name
        for name, number in parts_journal(target.folder).numbers().items()
        if first < number < first + _LAUNCH_SIZE
        and number not in known
        and name == part_name(number, target.run)
    ]
    for name in untold:
        place = target.folder / name
        try:
            remove(place)
        except OSError as e:
            raise cannot_write(place, e) from e
    return len(untold)


def next_launch(folder: Location) -> int:
    """A number that no replica had whose parts are there."""
    return max((number // _LAUNCH_SIZE for number in parts_journal(folder).numbers().values()), default=0) + 1


def parts_journal(folder: Location) -> Parts:
    """All parts of a folder, as a journal."""
    return Parts(folder)


def _write(place: Location, content: bytes) -> None:
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    replace_small(place, content)
