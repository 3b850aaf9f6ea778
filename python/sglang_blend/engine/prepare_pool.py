"""Lines in, prepared requests out, in the same order, by worker processes.

    pool = PreparePool(nursery, engine_argv, num_workers=2)
    for line, prepared in pool.prepare(lines): ...

Memory is bounded: lines are read only a few chunks ahead of the oldest one that is not yet prepared. A worker
that dies or hangs is replaced, and the lines it was at are done again one by one; a line that was at work in
two deaths becomes an error record.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglang_blend.engine.messages import (
    Accepted,
    Lines,
    Message,
    Refused,
    Results,
    StartWorker,
    pack_line,
    receive,
    send,
)
from sglang_blend.engine.nursery import Child, Nursery
from sglang_blend.errors import EngineError, error_of_kind
from sglang_blend.request import BatchLine, Prepared, Rejection

logger = logging.getLogger(__name__)

# A chunk ends with whichever comes first.
CHUNK_LINES = 32
CHUNK_BYTES = 1 << 18
# Chunks given to a worker at a time: the one at work, and one so that it need not wait for the next.
CHUNKS_PER_WORKER = 2
# Chunks read ahead, for each worker: those at work, and finished ones that wait for a slow one before them.
CHUNKS_AHEAD = 8
# A line takes milliseconds; a chat template that never ends is ended.
WORKER_TIMEOUT_S = 120.0
MAX_DEATHS_IN_A_ROW = 10

Numbered = tuple[int, BatchLine, bytes]  # place in the input, line, the line as it travels


@dataclass
class _Chunk:
    """A few lines; `deaths` counts the workers that died at it."""

    lines: list[Numbered]
    deaths: int = 0


@dataclass
class _Worker:
    """`chunks[0]` is at work. `heard_at` is when it last answered or was given something to do."""

    child: Child
    chunks: deque[_Chunk] = field(default_factory=deque)
    heard_at: float = 0.0
    is_ready: bool = False


class PreparePool:
    """The workers. They are started at once and live until `close`."""

    def __init__(
        self,
        nursery: Nursery,
        engine_argv: Sequence[str],
        *,
        num_workers: int,
        timeout_s: float = WORKER_TIMEOUT_S,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the workers.

        Args:
            engine_argv: SGLang's flags; they name the tokenizer.
            timeout_s: a worker that was given lines and says nothing for that long is replaced.
            check: called every second or more often; what it raises ends the preparation.
        """
        self._nursery = nursery
        self._argv = list(engine_argv)
        self._timeout_s = timeout_s
        self._check = check
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._redo: deque[_Chunk] = deque()
        self._done: dict[int, tuple[BatchLine, Prepared | Rejection]] = {}
        self._deaths_in_a_row = 0
        for _ in range(num_workers):
            self._start_worker()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.child.pid for worker in self._workers]

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self._end_worker(self._workers[-1])
        self._selector.close()

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """Validate and tokenize every line; yields in the order of `lines`.

        Raises:
            ConfigError: a worker refuses the engine's flags.
            EngineError: worker after worker dies.
        """
        source = _Source(lines, self._done)
        ends: deque[int] = deque()  # of the chunks that are not all yielded: place of the last line, plus one
        num_out = 0
        while not source.is_empty or ends:
            for worker in self._workers:
                while worker.is_ready and len(worker.chunks) < CHUNKS_PER_WORKER:
                    if self._redo:
                        self._give(worker, self._redo.popleft())
                    elif not source.is_empty and len(ends) < CHUNKS_AHEAD * len(self._workers):
                        chunk = source.next_chunk()
                        ends.append(source.num_read)
                        if chunk.lines:
                            self._give(worker, chunk)
                    else:
                        break
            if num_out not in self._done and (num_out < source.num_read or not source.is_empty):
                self._take_results()
            while num_out in self._done:
                yield self._done.pop(num_out)
                num_out += 1
            while ends and ends[0] <= num_out:
                ends.popleft()

    def _give(self, worker: _Worker, chunk: _Chunk) -> None:
        if not worker.chunks:
            worker.heard_at = time.monotonic()
        worker.chunks.append(chunk)
        with contextlib.suppress(ConnectionError):  # it is dead, and its end of the socket will tell
            send(worker.child.sock, Lines([packed for _, _, packed in chunk.lines]))

    def _take_results(self) -> None:
        """Wait for a word of the workers, a second at most."""
        for key, _ in self._selector.select(timeout=1.0):
            worker: _Worker = key.data
            message = receive(worker.child.sock)
            if message is None:
                self._replace(worker)
            else:
                self._hear(worker, message)
        for worker in list(self._workers):
            if worker.chunks and time.monotonic() - worker.heard_at > self._timeout_s:
                self._replace(worker)
        self._check()

    def _hear(self, worker: _Worker, message: Message) -> None:
        worker.heard_at = time.monotonic()
        match message:
            case Accepted():
                worker.is_ready = True
            case Refused():
                raise error_of_kind(message.kind, message.message)
            case Results():
                self._deaths_in_a_row = 0
                lines = worker.chunks.popleft().lines
                for (place, line, _), result in zip(lines, message.results, strict=True):
                    self._done[place] = line, result

    def _replace(self, worker: _Worker) -> None:
        """Start another worker; what the dead one was at is done again, line by line."""
        ending = self._end_worker(worker)
        # A death at lines gets further: they are divided, or one of them is found. A file may have many such.
        self._deaths_in_a_row = 0 if worker.is_ready and worker.chunks else self._deaths_in_a_row + 1
        if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            raise EngineError(
                f"{self._deaths_in_a_row} processes that prepare requests died one after the other "
                f"({ending}){self._nursery.last_words()}"
            )
        logger.warning("A process that prepares requests died (%s); another one does its lines.", ending)
        if worker.chunks:
            at_work = worker.chunks.popleft()
            self._redo.extendleft(reversed(worker.chunks))
            if len(at_work.lines) == 1 and at_work.deaths:
                place, line, _ = at_work.lines[0]
                self._done[place] = line, _crashed(line, ending)
            else:
                self._redo.extendleft(_Chunk([line], deaths=1) for line in reversed(at_work.lines))
        self._start_worker()

    def _start_worker(self) -> None:
        child = self._nursery.start(StartWorker(self._argv))
        worker = _Worker(child)
        self._workers.append(worker)
        self._selector.register(child.sock, selectors.EVENT_READ, worker)

    def _end_worker(self, worker: _Worker) -> str:
        self._selector.unregister(worker.child.sock)
        self._workers.remove(worker)
        return self._nursery.end(worker.child)


class Preparer:
    """A nursery and its prepare workers, without an engine. A context manager: no process is left behind."""

    def __init__(self, engine_argv: Sequence[str], *, log: Path, num_workers: int) -> None:
        """Start the processes.

        Args:
            engine_argv: SGLang's flags; they name the tokenizer.
            log: where the processes say what they have to say.

        Raises:
            ConfigError: SGLang refuses the flags.
            EngineError: a process died on the way.
        """
        self._nursery = Nursery(log)
        with self._nursery.closed_by_errors():
            self._pool = PreparePool(self._nursery, engine_argv, num_workers=num_workers)

    def __enter__(self) -> Preparer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """See `engine.protocol.Engine`."""
        return self._pool.prepare(lines)

    def close(self) -> None:
        """End the processes; more than once does no harm."""
        self._nursery.close()


class _Source:
    """The lines, cut into chunks; a line that cannot be sent is done already."""

    def __init__(
        self, lines: Iterable[BatchLine], done: dict[int, tuple[BatchLine, Prepared | Rejection]]
    ) -> None:
        self._lines = iter(lines)
        self._done = done
        self.num_read = 0
        self.is_empty = False

    def next_chunk(self) -> _Chunk:
        """The next lines; none at the end of the input, and sometimes before it."""
        chunk, num_bytes = _Chunk([]), 0
        while len(chunk.lines) < CHUNK_LINES and num_bytes < CHUNK_BYTES:
            line = next(self._lines, None)
            if line is None:
                self.is_empty = True
                break
            try:
                packed = pack_line(line)
                chunk.lines.append((self.num_read, line, packed))
                num_bytes += len(packed)
            except TypeError as e:  # orjson reads more levels than it writes
                self._done[self.num_read] = line, _unsendable(line, e)
            self.num_read += 1
        return chunk


def _crashed(line: BatchLine, ending: str) -> Rejection:
    return Rejection(
        code="prepare_crash",
        message=f"twice, the process that tokenizes the requests died at this line ({ending}).",
        status_code=500,
        line_number=line.line_number,
        custom_id=line.custom_id,
    )


def _unsendable(line: BatchLine, error: TypeError) -> Rejection:
    return Rejection(
        code="invalid_value",
        message=f"the body is nested too deeply, 250 levels at most are served ({error}).",
        param="body",
        line_number=line.line_number,
        custom_id=line.custom_id,
    )
