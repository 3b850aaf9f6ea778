"""One run of the engine host, from its start to its death; `supervisor.EngineRun`."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_blend.engine.messages import (
    Answered,
    Ask,
    AskFlush,
    AskState,
    Progress,
    Ready,
    Refused,
    Said,
    StartHost,
    pack,
    read,
    receive,
)
from sglang_blend.engine.nursery import KILLED, Nursery, phase, tells_a_mistake, tells_a_reason
from sglang_blend.errors import EngineDied, error_of_kind
from sglang_blend.machine import num_oom_kills
from sglang_blend.request import Answer, EngineFacts

logger = logging.getLogger(__name__)

READ_BUFFER_BYTES = 1 << 20
# A start that takes longer says so, and what it is at, as often as this.
_TELL_INTERVAL_S = 20.0


class HostRun:
    """The job's end of the socket to an engine host, and the host's life."""

    def __init__(self, nursery: Nursery, engine_argv: Sequence[str], stats_file: Path | None = None) -> None:
        """Start the host and wait until it has parsed its flags, not until it is ready.

        Args:
            stats_file: where its scheduler writes what it does; None for nowhere.

        Raises:
            ConfigError: SGLang refuses the flags.
            EngineDied: the host died on the way.
        """
        self._nursery = nursery
        self._log_from = nursery.log_size()
        self._num_oom_kills = num_oom_kills()
        stats = None if stats_file is None else str(stats_file.resolve())
        self._child = nursery.start(StartHost(list(engine_argv), stats))
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._death: EngineDied | None = None
        self._progress_at = time.monotonic()
        self._facts: EngineFacts | None = None
        self._ready: asyncio.Future[None]  # these two are set by ready
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None] | None = None
        match receive(self._child.sock):
            case None:
                raise self.end()
            case Refused(kind, message):
                self.end()
                raise error_of_kind(kind, message)

    def is_dead(self) -> bool:
        """Whether the host is gone; needs no event loop."""
        return self._child.is_gone()

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of progress: a step or a token; while it starts, a word in its log."""
        silent_s = time.monotonic() - self._progress_at
        return min(silent_s, self._nursery.log_silent_s) if self._facts is None else silent_s

    async def ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            EngineDied: it did not come so far.
        """
        self._ready = asyncio.get_running_loop().create_future()
        # A duplicate, because asyncio closes its own; a large limit, because answers come in large frames.
        sock = self._child.sock.dup()
        reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=READ_BUFFER_BYTES)
        self._reading = asyncio.create_task(self._read(reader))
        telling = asyncio.create_task(self._tell_of_start())
        try:
            await self._ready
        finally:
            telling.cancel()

    async def _tell_of_start(self) -> None:
        start = time.monotonic()
        while True:
            await asyncio.sleep(_TELL_INTERVAL_S)
            at = phase(self._nursery.open_log, self._log_from)
            logger.info("Still loading after %.0f s%s.", time.monotonic() - start, at and f": {at}")

    def facts(self) -> EngineFacts:
        """What planning needs to know; after `ready`."""
        assert self._facts is not None, "ready comes first"
        return self._facts

    async def died(self) -> None:
        """Wait for the death of a run that was ready."""
        assert self._reading is not None, "ready comes first"
        await asyncio.wait([self._reading])

    async def close(self) -> EngineDied:
        """Kill the host and all it has started, wait until that is gone, and tell how it ended."""
        death = await asyncio.to_thread(self.end)
        if self._reading is not None:
            await asyncio.wait([self._reading])
        return death

    def end(self) -> EngineDied:
        """`close` without an event loop."""
        if self._death is None:
            ending = self._nursery.end(self._child)
            log, since = self._nursery.open_log, self._log_from
            # Of those that the kernel ended for want of memory, it most likely was a request that wanted it.
            is_own = tells_a_reason(log, since) or num_oom_kills() > self._num_oom_kills
            self._death = EngineDied(
                f"the engine died ({ending}){self._nursery.last_words(since)}",
                from_outside=ending == KILLED and not is_own,
                may_pass=not tells_a_mistake(log, since),
            )
        return self._death

    async def answer(self, ask: Ask) -> Answer:
        """Run one request.

        Raises:
            EngineDied: the host died meanwhile.
        """
        answer: Answer = await self._ask(ask)
        return answer

    async def server_info(self) -> list[dict[str, Any]]:
        """State of each scheduler. Raises EngineDied."""
        states: list[dict[str, Any]] = await self._ask(AskState())
        return states

    async def flush_cache(self) -> bool:
        """Whether the cache was flushed. Raises EngineDied."""
        return bool(await self._ask(AskFlush()))

    async def _ask(self, question: Ask | AskState | AskFlush) -> Any:
        if self._reading is None or self._reading.done():
            raise EngineDied("the engine is dead")
        number = next(self._numbers)
        reply = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        try:
            self._writer.write(pack(replace(question, number=number)))
            await self._writer.drain()
            return await reply
        except ConnectionError as e:
            raise EngineDied("the engine died") from e
        finally:
            del self._replies[number]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (message := await read(reader)) is not None:
            match message:
                case Progress():
                    self._progress_at = time.monotonic()
                case Ready():
                    self._progress_at = time.monotonic()
                    self._facts = message.facts
                    if not self._ready.done():
                        self._ready.set_result(None)
                case Answered() | Said():
                    reply = self._replies.get(message.number)
                    if reply is not None and not reply.done():
                        reply.set_result(message.value)
        self._writer.close()
        if not self._ready.done():
            self._ready.set_exception(EngineDied("the engine died at its start"))
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(EngineDied("the engine died"))
