"""A replica's parts: an answer counts when its part is there and told, on a disk as in a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from job.s3_server import OF_LIBRARIES, Storage
from sglang_blend.cluster.part_writer import (
    PartsTarget,
    PartWriter,
    Written,
    discard_untold,
    next_launch,
    parts_journal,
)
from sglang_blend.errors import OutputError
from sglang_blend.location import Location, Url
from sglang_blend.request import Answer

pytestmark = OF_LIBRARIES
RUN = "5f0c2a91"


@pytest.fixture(params=["disk", "bucket"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Location]:
    if request.param == "disk":
        yield tmp_path / "out.jsonl.parts"
        return
    storage = Storage(monkeypatch)
    yield Url("s3://bucket/out.jsonl.parts")
    storage.stop()


def answer(number: int) -> Answer:
    return Answer(200, {"text": f"answer {number}"}, 3, 1, 2)


async def write(target: PartsTarget, rows: range) -> list[Written]:
    """One part."""
    told: list[Written] = []
    writer = PartWriter(target, told.append)
    for row in rows:
        writer.add(row, f"r{row}", answer(row))
    assert writer.num_unwritten == len(rows)
    assert not told, "nothing is told before it is there"
    await writer.flush()
    assert writer.num_unwritten == 0
    return told


def ids(folder: Location) -> list[str]:
    return [orjson.loads(line)["custom_id"] for line in parts_journal(folder).read()]


def test_what_is_told_is_there_and_comes_without_its_body(folder: Location) -> None:
    told = asyncio.run(write(PartsTarget(folder, 1, RUN), range(5)))
    assert ids(folder) == [f"r{row}" for row in range(5)]
    assert [row for part in told for row, _ in part.done] == list(range(5))
    for _, told_answer in told[0].done:
        assert told_answer.is_written
        assert told_answer.body == {}
        assert (told_answer.prompt_tokens, told_answer.cached_tokens, told_answer.output_tokens) == (3, 1, 2)


def test_only_what_a_lost_replica_never_told_is_taken_away(folder: Location) -> None:
    first, second = PartsTarget(folder, 1, RUN), PartsTarget(folder, 2, RUN)
    told = asyncio.run(write(first, range(3)))
    asyncio.run(write(second, range(3, 6)))
    asyncio.run(write(PartsTarget(folder, 3, RUN), range(6, 9)))
    assert discard_untold(first, [part.number for part in told]) == 0
    assert discard_untold(second, []) == 1
    assert ids(folder) == ["r0", "r1", "r2", "r6", "r7", "r8"]


def test_what_another_run_wrote_is_never_taken_away(folder: Location) -> None:
    """Another driver gave one of its replicas the same number."""
    asyncio.run(write(PartsTarget(folder, 1, RUN), range(3)))
    asyncio.run(write(PartsTarget(folder, 1, "another0"), range(3, 6)))
    assert discard_untold(PartsTarget(folder, 1, RUN), []) == 1
    assert ids(folder) == ["r3", "r4", "r5"]


def test_replicas_of_a_later_run_write_elsewhere(folder: Location) -> None:
    assert next_launch(folder) == 1
    asyncio.run(write(PartsTarget(folder, 4, RUN), range(2)))
    assert next_launch(folder) == 5


def test_a_storage_that_refuses_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.parts").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written any more"):
        asyncio.run(write(PartsTarget(tmp_path / "out.jsonl.parts", 1, RUN), range(1)))


def test_parts_come_in_time_and_at_once_when_asked(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        told: list[Written] = []
        writer = PartWriter(PartsTarget(tmp_path, 1, RUN, interval_s=0.05), told.append)
        running = asyncio.create_task(writer.run())
        writer.add(0, "r0", answer(0))
        await asyncio.sleep(0.5)
        in_time = len(told)
        slow = PartWriter(PartsTarget(tmp_path, 2, RUN, interval_s=60.0), told.append)
        waiting = asyncio.create_task(slow.run())
        slow.add(1, "r1", answer(1))
        slow.hurry()
        await asyncio.sleep(0.5)
        running.cancel()
        waiting.cancel()
        return in_time, len(told)

    assert asyncio.run(main()) == (1, 2)
