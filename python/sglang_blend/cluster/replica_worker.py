"""One replica inside a Ray actor: an engine of its own, which it restarts when that dies by itself.

The driver (`replica`) sends requests in lots and fetches answers in lots, so that Ray's cost is paid per lot.
Token ids come once, as one array from Ray's object store; a request names its row.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sglang_blend.cluster.part_writer import PartsTarget, PartWriter, Written
from sglang_blend.cluster.window import ReplicaLoad
from sglang_blend.console import log_to_stderr
from sglang_blend.core.cost_model import IntArray
from sglang_blend.engine.local import LocalEngine
from sglang_blend.engine.messages import Ask
from sglang_blend.engine.nursery import last_words
from sglang_blend.engine.protocol import Engine
from sglang_blend.engine.supervisor import SupervisorConfig
from sglang_blend.errors import BlendError, EngineError, OutputError
from sglang_blend.request import Answer, BatchLine, EngineFacts, Failure

logger = logging.getLogger(__name__)

# Answers that come within this time travel together.
_GATHER_S = 0.01
_LOAD_INTERVAL_S = 1.0
# What one report brings of the file of steps.
_MOST_STEPS_BYTES = 1 << 20


class Order(NamedTuple):
    """A request on its way to a replica."""

    row: int
    line: BatchLine
    hints: dict[str, Any] | None


class AnsweringEngine(Engine, Protocol):
    """What a replica needs of its engine; `engine.local.LocalEngine` is the real one."""

    async def answer(self, ask: Ask) -> Answer | Failure:
        """Run one request to its end."""


@dataclass
class Report:
    """What a replica has to tell: answers since the last report, and how it stands.

    Attributes:
        done: rows with their answers.
        load: requests running and waiting, None while that is not known.
        steps: what the schedulers did since, as bytes of their file.
        num_restarts, num_retries: of its engine, and of requests because of that; in all.
        parts: numbers of the parts that were written since; what is in them is in `done`.
        num_unwritten: answers that wait for their part.
        error: why it cannot go on; then there are no further reports.
    """

    done: list[tuple[int, Answer | Failure]] = field(default_factory=list)
    load: ReplicaLoad | None = None
    steps: bytes = b""
    num_restarts: int = 0
    num_retries: int = 0
    parts: list[int] = field(default_factory=list)
    num_unwritten: int = 0
    error: BlendError | None = None


class ReplicaWorker:
    """The actor. Its methods run in one event loop, many at a time."""

    def __init__(
        self,
        engine_argv: Sequence[str],
        supervision: SupervisorConfig,
        *,
        slot: int,
        num_threads: int | None = None,
        parts: PartsTarget | None = None,
    ) -> None:
        """Make a replica that has not started.

        Args:
            slot: its number, for the metrics.
            num_threads: of each of its processes; None leaves that to SGLang.
            parts: where it writes its answers; None sends them to the driver.
        """
        log_to_stderr("warning")
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to the CPUs of the actor
        if num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(num_threads)
        self._argv, self._supervision = list(engine_argv), supervision
        self._metrics = _counters(slot)
        self._dir = tempfile.TemporaryDirectory(prefix="sglang-blend-")
        self._log = Path(self._dir.name) / "engine.log"
        self._steps_file = Path(self._dir.name) / "steps.jsonl"
        self._steps_at = 0
        self._token_ids: np.ndarray[tuple[int], np.dtype[np.int32]]  # these two are set by take_prompts
        self._offsets: IntArray
        self._report = Report()
        self._writer = None if parts is None else PartWriter(parts, self._take_written)
        self._news = asyncio.Event()
        self._num_at_work = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine: AnsweringEngine  # set by start

    @staticmethod
    def make_engine(
        argv: Sequence[str], log: Path, steps_file: Path, supervision: SupervisorConfig
    ) -> AnsweringEngine:
        """The engine that answers."""
        return LocalEngine(
            argv, log=log, stats_file=steps_file, num_prepare_workers=0, supervision=supervision
        )

    async def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    async def start(self) -> EngineFacts:
        """Load the model.

        Raises:
            ConfigError: SGLang refuses the flags.
            EngineError: the engine died at its start.
        """
        # In this thread, whose end would be that of the processes.
        self._engine = self.make_engine(self._argv, self._log, self._steps_file, self._supervision)
        await self._engine.__aenter__()
        self._run(self._watch_load())
        if self._writer is not None:
            self._run(self._write_parts(self._writer))
        return self._engine.facts()

    async def take_prompts(self, token_ids: Any, offsets: IntArray) -> None:
        """All prompts of the job; `token_ids` is a view of Ray's object store, not a copy."""
        self._token_ids, self._offsets = token_ids, offsets

    async def submit(self, lot: bytes) -> None:
        """Run these requests too; a pickled list of `Order`."""
        for order in pickle.loads(lot):
            self._run(self._answer(order))

    async def report(self, wait_s: float) -> bytes:
        """What is new, a pickled `Report`; waits so long for an answer at most."""
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
            await asyncio.sleep(_GATHER_S)
        except TimeoutError:
            pass
        self._news.clear()
        report, self._report = self._report, Report(load=self._report.load)
        report.steps = self._new_steps()
        report.num_restarts, report.num_retries = self._engine.num_restarts, self._engine.num_retries
        report.num_unwritten = 0 if self._writer is None else self._writer.num_unwritten
        return pickle.dumps(report)

    async def server_info(self) -> list[dict[str, Any]]:
        """See `engine.protocol.Engine`."""
        return await self._engine.server_info()

    async def flush_cache(self) -> bool:
        """See `engine.protocol.Engine`."""
        return await self._engine.flush_cache()

    async def last_words(self) -> str:
        """The end of the engine's log."""
        return last_words(self._log)

    async def stop(self) -> None:
        """Write what is there and end the engine; the process is ended by Ray."""
        if self._writer is not None:
            await self._writer.flush()
        for task in self._tasks:
            task.cancel()
        await self._engine.__aexit__(None, None, None)
        self._engine.__exit__(None, None, None)
        self._dir.cleanup()

    def _run(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, order: Order) -> None:
        self._num_at_work += 1
        ids = self._token_ids[self._offsets[order.row] : self._offsets[order.row + 1]]
        try:
            answer = await self._engine.answer(Ask(order.line, ids, order.hints))
        except EngineError as e:
            self._report.error = EngineError(str(e))
            self._news.set()
            return
        finally:
            self._num_at_work -= 1
        self._count(answer)
        if self._writer is None or not isinstance(answer, Answer) or answer.status_code != 200:
            self._report.done.append((order.row, answer))
            self._news.set()
        else:
            self._writer.add(order.row, order.line.custom_id, answer)
        if self._writer is not None and not self._num_at_work:
            self._writer.hurry()

    async def _write_parts(self, writer: PartWriter) -> None:
        try:
            await writer.run()
        except OutputError as e:
            self._report.error = OutputError(str(e))
            self._news.set()

    def _take_written(self, written: Written) -> None:
        """A part is there: its answers may be told."""
        self._report.done += written.done
        self._report.parts.append(written.number)
        self._news.set()

    def _count(self, answer: Answer | Failure) -> None:
        self._metrics["requests"].inc()
        if isinstance(answer, Answer):
            for name in ("prompt_tokens", "cached_tokens", "output_tokens"):
                if value := getattr(answer, name):
                    self._metrics[name].inc(value)

    async def _watch_load(self) -> None:
        """Ask the schedulers how much they run."""
        while True:
            try:
                states = [state["blend"] for state in await self._engine.server_info()]
                self._report.load = ReplicaLoad(
                    sum(state["num_running"] for state in states),
                    sum(state["num_waiting"] for state in states),
                )
            except (EngineError, KeyError):
                self._report.load = None
            await asyncio.sleep(_LOAD_INTERVAL_S)

    def _new_steps(self) -> bytes:
        """Whole lines that the schedulers have written since the last time."""
        try:
            with self._steps_file.open("rb") as file:
                file.seek(self._steps_at)
                content = file.read(_MOST_STEPS_BYTES)
        except OSError:
            return b""
        whole = content[: content.rfind(b"\n") + 1]
        self._steps_at += len(whole)
        return whole


def _counters(slot: int) -> dict[str, Any]:
    """Ray's counters, which are at its Prometheus endpoint."""
    from ray.util.metrics import Counter

    texts = {
        "requests": "requests answered",
        "prompt_tokens": "prompt tokens of answered requests",
        "cached_tokens": "prompt tokens that came from the radix cache",
        "output_tokens": "tokens generated",
    }
    counters = {
        name: Counter(f"sglang_blend_{name}", description=text, tag_keys=("replica",))
        for name, text in texts.items()
    }
    for counter in counters.values():
        counter.set_default_tags({"replica": str(slot)})
    return counters
