"""An event loop in a thread of its own, for an engine that is called from anywhere.

    loop = LoopThread("engine")
    loop.run_until_complete(coroutine)        # blocks; also where an event loop is running, as in a notebook
    await loop.run(coroutine)                 # from any other event loop
    loop.close()

SGLang's tokenizer manager lives in the event loop that first uses it, and its engine calls
`loop.run_until_complete`, which a loop that is already running refuses. With a loop that nobody else runs,
neither matters. Whoever stops waiting (Ctrl-C, a cancelled task) cancels what was waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from sglang_blend.errors import EngineError

T = TypeVar("T")
# How long somebody who gives up waits for the cancelled work to clean up behind itself.
CANCEL_TIMEOUT_S = 10.0


class LoopThread:
    """Runs awaitables one beside the other; every method may be called from any thread but the loop's."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._is_closed = False
        self._at_end: Callable[[], None] | None = None  # set by close
        self._closing = threading.Lock()  # nothing is started after the loop was told to stop
        self._thread = threading.Thread(target=self._run, name=f"{name} loop", daemon=True)
        self._thread.start()

    def run_until_complete(self, awaitable: Awaitable[T]) -> T:
        """Run to the end and return the result.

        Raises:
            EngineError: the loop was closed, before or meanwhile.
        """
        work = self._start(awaitable)
        try:
            return work.result()
        except asyncio.CancelledError as e:
            raise _closed() if self._is_closed else e from None
        except BaseException:
            if not work.done():  # the wait was interrupted, not the work
                self._cancel(work)
                wait([work], CANCEL_TIMEOUT_S)
            raise

    async def run(self, awaitable: Awaitable[T]) -> T:
        """The same for somebody in an event loop of his own.

        Raises:
            EngineError: the loop was closed, before or meanwhile.
        """
        work = self._start(awaitable)
        waiting = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if work.done() and self._is_closed:
                raise _closed() from None
            if not work.done():
                self._cancel(work)
                await asyncio.wait([waiting], timeout=CANCEL_TIMEOUT_S)
            if waiting.done():
                waiting.exception()  # heard, so that asyncio does not report it
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items of an asynchronous generator, which is closed with the iterator."""
        try:
            while True:
                try:
                    yield self.run_until_complete(items.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self.run_until_complete(items.aclose())

    async def aiterate(self, items: AsyncGenerator[T, None]) -> AsyncIterator[T]:
        """The same for somebody in an event loop of his own."""
        try:
            while True:
                try:
                    yield await self.run(items.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            await self.run(items.aclose())

    def close(self, at_end: Callable[[], None] | None = None) -> None:
        """End the loop; what still runs is cancelled, and who waits for it is told so.

        Args:
            at_end: called in the loop when nothing else runs in it any more.
        """
        with self._closing:
            if not self._is_closed:
                self._is_closed, self._at_end = True, at_end
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._at_end is not None:
            self._at_end()

    def _start(self, awaitable: Awaitable[T]) -> _Work[T]:
        work: _Work[T] = _Work()
        try:
            if threading.current_thread() is self._thread:
                raise RuntimeError("the engine's own event loop would wait for itself; await the call.")
            with self._closing:
                if self._is_closed:
                    raise _closed()
                self._loop.call_soon_threadsafe(work.start, awaitable)
        except BaseException:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()  # so that Python does not complain that nobody awaited it
            raise
        return work

    def _cancel(self, work: _Work[Any]) -> None:
        with self._closing:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(work.cancel_task)


def _closed() -> EngineError:
    return EngineError("the engine was shut down; make another one.")


class _Work(Future[T]):
    """The result of a task in the loop; done when the task is, cancelled or not."""

    _task: asyncio.Future[T] | None = None

    def start(self, awaitable: Awaitable[T]) -> None:
        """In the loop."""
        self._task = asyncio.ensure_future(awaitable)
        self._task.add_done_callback(self._finish)

    def cancel_task(self) -> None:
        """In the loop, after `start`."""
        assert self._task is not None, "start() was scheduled first"
        self._task.cancel()

    def _finish(self, task: asyncio.Future[T]) -> None:
        if task.cancelled():
            self.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())
