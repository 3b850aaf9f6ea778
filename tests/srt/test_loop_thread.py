"""An event loop of its own serves callers in any thread or loop, and gives up what they give up."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Iterator

import pytest

from sglang_blend.errors import EngineError
from sglang_blend.srt.loop_thread import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    made = LoopThread("test")
    yield made
    made.close()


class Work:
    """Something that takes for ever, and remembers how it ended."""

    ended = ""

    async def run(self) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            self.ended = "cancelled"
            raise


async def numbers() -> AsyncGenerator[int, None]:
    for i in range(3):
        await asyncio.sleep(0)
        yield i


def test_blocks_inside_a_running_loop(loop: LoopThread) -> None:
    async def cell() -> list[int]:
        return [loop.run_until_complete(asyncio.sleep(0, 1)), await loop.run(asyncio.sleep(0, 2))]

    assert asyncio.run(cell()) == [1, 2]


def test_an_exception_reaches_whoever_waits(loop: LoopThread) -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        loop.run_until_complete(fail())
    with pytest.raises(ValueError, match="no"):
        asyncio.run(loop.run(fail()))


def test_an_interrupted_caller_leaves_when_the_work_has_ended(loop: LoopThread) -> None:
    work = Work()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(work.run())
    assert work.ended == "cancelled"


def test_a_cancelled_task_leaves_when_the_work_has_ended(loop: LoopThread) -> None:
    work = Work()

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.run(work.run()), 0.1)
        assert work.ended == "cancelled"

    asyncio.run(impatient())


def test_generators_are_read_from_both_sides_and_closed(loop: LoopThread) -> None:
    async def read() -> list[int]:
        return [i async for i in loop.aiterate(numbers())]

    assert list(loop.iterate(numbers())) == [0, 1, 2]
    assert asyncio.run(read()) == [0, 1, 2]
    closed = []

    async def endless() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    items = loop.iterate(endless())
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert closed


def test_its_own_thread_may_not_wait_for_itself(loop: LoopThread) -> None:
    async def inside() -> None:
        loop.run_until_complete(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="await the call"):
        loop.run_until_complete(inside())


def test_closing_ends_who_waits_and_refuses_who_comes(loop: LoopThread) -> None:
    work, last = Work(), []

    def close_soon() -> None:
        time.sleep(0.2)
        loop.close(at_end=lambda: last.append(work.ended))

    threading.Thread(target=close_soon).start()
    with pytest.raises(EngineError, match="shut down"):
        loop.run_until_complete(work.run())
    loop.close()
    assert last == ["cancelled"]
    with pytest.raises(EngineError, match="shut down"):
        loop.run_until_complete(work.run())
