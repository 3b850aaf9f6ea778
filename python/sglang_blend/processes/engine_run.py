"""One run of the engine host, from its start to its death; `job.supervisor.EngineRun`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_blend.errors import EngineDied, error_of_kind
from sglang_blend.processes.last_words import last_words, tells_a_reason
from sglang_blend.processes.messages import pack, pack_ids, read, receive
from sglang_blend.processes.nursery import KILLED, Nursery
from sglang_blend.request import Answer, BatchLine, EngineFacts

READ_BUFFER_BYTES = 1 << 20


class EngineRun:
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
        stats = None if stats_file is None else str(stats_file.resolve())
        self._child = nursery.start("host", {"argv": list(engine_argv), "stats_file": stats})
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._death: EngineDied | None = None
        self._progress_at = time.monotonic()
        self._facts: EngineFacts | None = None
        self._ready: asyncio.Future[None]  # these two are set by ready
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None] | None = None
        message = receive(self._child.sock)
        if message is None:
            raise self.end()
        if "error" in message.head:
            self.end()
            raise error_of_kind(message.head["kind"], message.head["error"])

    def is_dead(self) -> bool:
        """Whether the host is gone; needs no event loop."""
        return self._child.is_gone()

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of progress: a token; while it starts, a word in its log."""
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
        await self._ready

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
            log = self._nursery.log
            words = last_words(log, self._log_from)
            from_outside = ending == KILLED and not tells_a_reason(log, self._log_from)
            self._death = EngineDied(f"the engine died ({ending}){words}", from_outside=from_outside)
        return self._death

    async def answer(self, line: BatchLine, token_ids: Sequence[int], hints: dict[str, Any] | None) -> Answer:
        """Run one request.

        Raises:
            EngineDied: the host died meanwhile.
        """
        head = {"ask": "answer", "line": line._asdict(), "hints": hints}
        return Answer(**await self._ask(head, pack_ids([token_ids])))

    async def server_info(self) -> list[dict[str, Any]]:
        """State of each scheduler. Raises EngineDied."""
        states: list[dict[str, Any]] = await self._ask({"ask": "server_info"})
        return states

    async def flush_cache(self) -> bool:
        """Whether the cache was flushed. Raises EngineDied."""
        return bool(await self._ask({"ask": "flush_cache"}))

    async def _ask(self, head: dict[str, Any], data: bytes = b"") -> Any:
        if self._reading is None or self._reading.done():
            raise EngineDied("the engine is dead")
        number = next(self._numbers)
        reply = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        try:
            self._writer.write(pack({"id": number, **head}, data))
            await self._writer.drain()
            return await reply
        except ConnectionError as e:
            raise EngineDied("the engine died") from e
        finally:
            del self._replies[number]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (message := await read(reader)) is not None:
            head = message.head
            if "progress" in head or "facts" in head:
                self._progress_at = time.monotonic()
            if "facts" in head:
                self._facts = EngineFacts(**head["facts"])
                if not self._ready.done():
                    self._ready.set_result(None)
            elif "id" in head and (reply := self._replies.get(head["id"])) and not reply.done():
                reply.set_result(head["said"])
        self._writer.close()
        if not self._ready.done():
            self._ready.set_exception(EngineDied("the engine died at its start"))
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(EngineDied("the engine died"))
