"""The process that owns SGLang's engine: `engine.host_run` is its parent's side.

No HTTP: requests come over the job's socket and run through SGLang's serving classes in the event loop that
SGLang's tokenizer manager uses. When one of SGLang's processes dies, all of them and this one are killed, and
the job sees the end of the socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from sglang_blend.engine.messages import (
    Accepted,
    Answered,
    Ask,
    AskFlush,
    AskState,
    Message,
    Progress,
    Ready,
    Refused,
    Said,
    pack,
    read,
    send,
)
from sglang_blend.errors import BlendError
from sglang_blend.srt.engine_facts import engine_facts
from sglang_blend.srt.engine_processes import ForkedEngine
from sglang_blend.srt.flags import server_args
from sglang_blend.srt.options import BlendOptions
from sglang_blend.srt.serving import Serving
from sglang_blend.srt.step_counter import StepCounter

# How often the job hears that the engine has stepped or produced something; long silence is a hang.
PROGRESS_INTERVAL_S = 1.0


def main(sock: socket.socket, argv: Sequence[str], stats_file: str | None = None) -> None:
    """Start the engine, then answer requests until the job is gone.

    Args:
        stats_file: where the scheduler writes its steps, unless the environment names another place.
    """
    try:
        options, counter = BlendOptions.from_env(), StepCounter()
        stats_file = options.stats_file or stats_file
        replace(options, stats_file=stats_file, step_counter=counter.path).to_env(os.environ)
        args = server_args(argv)
    except BlendError as e:
        send(sock, Refused(type(e).__name__, str(e)))
        return
    send(sock, Accepted())
    engine = ForkedEngine.start(args, sock)
    facts = engine.loop.run_until_complete(engine_facts(engine))
    send(sock, Ready(facts))
    engine.loop.run_until_complete(_Host(engine, counter).serve(sock))


class _Host:
    """Runs every request as a task of its own."""

    def __init__(self, engine: ForkedEngine, counter: StepCounter) -> None:
        self._counter = counter
        self._manager = engine.tokenizer_manager
        self._serving = Serving(engine.tokenizer_manager, engine.template_manager)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter  # set by serve

    async def serve(self, sock: socket.socket) -> None:
        """Until the other side is gone."""
        reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        self._manager.auto_create_handle_loop()
        # In place of SGLang's own handler, which looks for debuggers for up to a minute before it kills.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, self._die)
        self._run(self._tell_progress())
        while (message := await read(reader)) is not None:
            self._run(self._reply(message))

    def _die(self) -> None:
        """A process of the engine is dead; it, or SGLang's watchdog, has sent the signal."""
        if self._manager.crash_dump_folder:
            self._manager.dump_requests_before_crash()
        os.killpg(0, signal.SIGKILL)

    def _run(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, message: Message) -> None:
        match message:
            case Ask():
                self._write(Answered(message.number, await self._serving.answer(message)))
            case AskState():
                state = orjson.loads(orjson.dumps(await self._manager.get_internal_state(), default=str))
                self._write(Said(message.number, state))
            case AskFlush():
                self._write(Said(message.number, (await self._manager.flush_cache()).success))

    async def _tell_progress(self) -> None:
        told = None
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            now = self._manager.last_receive_tstamp, self._counter.value()
            if now != told:
                told = now
                self._write(Progress())

    def _write(self, message: Message) -> None:
        self._writer.write(pack(message))
