"""Starts the processes of a job. The nursery is a process that imports SGLang once and forks the others from
itself, so that a worker is there in milliseconds and shares the memory of the imported modules.

    with Nursery(log) as nursery:
        child = nursery.start(StartWorker(argv))    # its socket is child.sock
        ...
        nursery.end(child)                          # "exit code 1", "killed by SIGKILL"

Every child is the leader of a process group, so `end` takes what it has started with it. Their stdout and
stderr go to the log file, behind what earlier runs said there.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from sglang_blend.engine.messages import (
    AwaitEnd,
    Ended,
    Imported,
    Message,
    Started,
    StartHost,
    StartWorker,
    pack,
    unpack,
)
from sglang_blend.errors import ConfigError, EngineError

M = TypeVar("M", bound=Message)

# What `Nursery.end` says of a child that died of SIGKILL, from whomever.
KILLED = "killed by SIGKILL"
_MODULE = "sglang_blend.srt.children"
_MAX_MESSAGE_BYTES = 1 << 16
_SEPARATOR = "---- started again at {} ----\n"
# Of the log, what is looked at and told when a process has died.
_READ_BYTES = 1 << 16
_NUM_LINES = 4
_LINE_LEN = 300
# The last line of a traceback, with or without the module's name.
_EXCEPTION = re.compile(r"^([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Interrupt|Exit)\b(: |$)")
_MISTAKE = re.compile(
    r"^([A-Za-z_]\w*\.)*(Value|Type|Key|Index|Attribute|Import|ModuleNotFound|FileNotFound|Permission"
    r"|NotImplemented|Assertion|Name|Validation|Config|Safetensor)Error\b"
)
_PROGRESS_BAR = re.compile(r"^(\S.*?):? +(\d+%)")
# How SGLang's watchdog tells of a process that died; -9 is SIGKILL.
_EXIT_CODE = re.compile(r"crashed with exit code (?!-9\b)")


class Child(NamedTuple):
    """A process that the nursery has started; it leads the process group of the same number."""

    pid: int
    sock: socket.socket

    def is_gone(self) -> bool:
        """Whether its end of the socket is closed; costs no reading."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))


class Nursery:
    """The parent's side. A context manager: at its end no process is left."""

    def __init__(self, log: Path) -> None:
        """Start the process; it imports SGLang meanwhile, which takes ten seconds or more.

        Raises:
            EngineError: the log cannot be written.
        """
        self.log = log
        self._children: dict[int, Child] = {}
        # Whether children are forked (or started afresh, each importing for itself); None until it is known.
        self.forks: bool | None = None
        try:
            self._log_file: IO[bytes] = log.open("ab+", buffering=0)
            #: Bytes of earlier runs.
            self.log_from = self.log_size()
            if self.log_from:
                self._log_file.write(_SEPARATOR.format(time.strftime("%Y-%m-%d %H:%M:%S")).encode())
        except OSError as e:
            raise EngineError(f"{log}, the engine's log, cannot be written ({e.strerror}).") from e
        self._control, self._process = self._start_process()

    def _start_process(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, "nursery", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=self._log_file,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours, process

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self, message: StartHost | StartWorker) -> Child:
        """Start a process; waits for SGLang's import where that is not over.

        Raises:
            EngineError: the nursery is dead.
        """
        if self.forks is None:
            self.forks = self._receive(Imported).forks
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [pack(message)], [theirs.fileno()])
            child = Child(self._receive(Started).pid, ours)
        except BaseException as e:
            ours.close()
            if isinstance(e, ConnectionError):
                raise self._dead() from e
            raise
        self._children[child.pid] = child
        return child

    def revive(self) -> None:
        """Start the nursery again if it is dead. Call it from the main thread, whose end would be its own."""
        if self._process.poll() is not None:
            for pid in list(self._children):
                self.end(self._children[pid])
            self._control.close()
            self.forks = None
            self._control, self._process = self._start_process()

    def end(self, child: Child) -> str:
        """Kill a child and all it has started, and wait until that is gone; says how the child ended."""
        self._kill_group(child.pid)
        child.sock.close()
        del self._children[child.pid]
        try:
            self._control.send(pack(AwaitEnd(child.pid)))
            return _ending(self._receive(Ended).exit_code)
        except (ConnectionError, EngineError):
            return "the process that started it died"

    # The log is looked at through its descriptor: somebody may have deleted or renamed it meanwhile.

    def log_size(self) -> int:
        """Bytes in the log; what is said from now on comes after them."""
        return os.fstat(self._log_file.fileno()).st_size

    @property
    def open_log(self) -> Path:
        """What reads it."""
        return Path(f"/proc/self/fd/{self._log_file.fileno()}")

    def last_words(self, since: int | None = None) -> str:
        """The end of what was said since this nursery was started, or since then; see the function."""
        return last_words(self.open_log, self.log_from if since is None else since, named=self.log)

    @property
    def log_silent_s(self) -> float:
        """Seconds since something was written to the log."""
        return time.time() - os.fstat(self._log_file.fileno()).st_mtime

    def kill(self) -> None:
        """Kill everything; whoever waits in `start` or `end` gets an error."""
        for pid in list(self._children):
            self._kill_group(pid)
        self._process.kill()

    def close(self) -> None:
        """Kill everything and clean up; the log stays unless nothing was said in it."""
        self.kill()
        for child in self._children.values():
            child.sock.close()
        self._children.clear()
        self._process.wait()
        self._control.close()
        self._log_file.close()
        with contextlib.suppress(OSError):
            if not self.log.stat().st_size:
                self.log.unlink()

    @contextlib.contextmanager
    def closed_by_errors(self) -> Iterator[None]:
        """An error inside closes it. Of refused flags nothing stays in the log: the error says it all."""
        try:
            yield
        except BaseException as e:
            self.close()
            if isinstance(e, ConfigError):
                with contextlib.suppress(OSError):
                    os.truncate(self.log, self.log_from)
                    if not self.log_from:
                        self.log.unlink()
            raise

    def _receive(self, kind: type[M]) -> M:
        try:
            frame = self._control.recv(_MAX_MESSAGE_BYTES)
        except ConnectionError as e:
            raise self._dead() from e
        if not frame:
            raise self._dead()
        message = unpack(frame)
        assert isinstance(message, kind), f"{message} is no {kind.__name__}"
        return message

    def _dead(self) -> EngineError:
        ending = _ending(self._process.wait())
        return EngineError(f"the process that starts the engine died ({ending}){self.last_words()}")

    @staticmethod
    def _kill_group(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return f"killed by {signal.Signals(-exit_code).name}"


def last_words(log: Path, since: int = 0, *, named: Path | None = None) -> str:
    """`: RuntimeError: ...; all of it is in LOG.` - the last exception in the log, else its last lines.

    SGLang goes on talking after the exception that ends it, so the end of the log alone would say little.

    Args:
        since: look only at what comes after so many bytes.
        named: the log as users know it.
    """
    where, lines = f"all of it is in {named or log}.", _last_lines(log, since)
    exceptions = [number for number, line in enumerate(lines) if _EXCEPTION.match(line)]
    if exceptions:
        line, *rest = lines[exceptions[-1] :]
        if line.rstrip().endswith(":") and rest:  # its words begin on a line of their own
            line = f"{line.rstrip()} {rest[0].strip()}"
        return f": {line[:_LINE_LEN]}; {where}"
    if not lines:
        return f" without a word; {where}"
    words = "".join(f"\n    {line[:_LINE_LEN]}" for line in lines[-_NUM_LINES:])
    return f"; its last words:{words}\n{where}"


def phase(log: Path, since: int = 0) -> str:
    """What a starting engine is at, by its last progress bar (`Capturing batches 50%`), or nothing."""
    for line in reversed(_last_lines(log, since)):
        if bar := _PROGRESS_BAR.match(line):
            return f"{bar[1]} {bar[2]}"
    return ""


def tells_a_reason(log: Path, since: int = 0) -> bool:
    """Whether the log has an exception, or a process that died of anything but SIGKILL."""
    return any(_EXCEPTION.match(line) or _EXIT_CODE.search(line) for line in _last_lines(log, since))


def tells_a_mistake(log: Path, since: int = 0) -> bool:
    """Whether the last exception would end every try: an unknown model, a missing package."""
    last = next((line for line in reversed(_last_lines(log, since)) if _EXCEPTION.match(line)), "")
    return bool(_MISTAKE.match(last))


def _last_lines(log: Path, since: int) -> list[str]:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        # Where there are fewer bytes somebody has cut it.
        file.seek(max(since if since <= end else 0, end - _READ_BYTES))
        return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
