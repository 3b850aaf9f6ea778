"""What SIGINT, SIGTERM and SIGHUP mean to a job: the first lets what is in flight finish, the second ends it.

with Stop() as stop:
    with stop.calls(handler):     # in an event loop; outside, a signal raises `Interrupted`
        ...
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A lost terminal or connection (SIGHUP) is a wish to stop, except under nohup, which lets it be ignored.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal came while nothing was in flight."""


class Stop:
    """The signals of one job. A context manager that takes them over; only in the main thread."""

    def __init__(self) -> None:
        self.first_signal: signal.Signals | None = None
        self._call: Callable[[], object] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        for signum in STOP_SIGNALS:
            if signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue
            self._before[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def calls(self, handler: Callable[[], object]) -> Iterator[None]:
        """Call `handler` in the running event loop at each signal, instead of raising."""
        loop, before = asyncio.get_running_loop(), self._call
        self._call = lambda: loop.call_soon_threadsafe(handler)
        try:
            yield
        finally:
            self._call = before

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.first_signal = self.first_signal or signal.Signals(signum)
        if self._call is None:
            raise Interrupted(self.first_signal.name)
        self._call()
