"""A main job in another process, watched while it runs: for tests that kill parts of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import psutil

# The machine may be busy; a test that passes never waits so long.
PATIENCE_S = 600.0
# By default the KV pool takes a third of the free memory, beside other engines of the same test run.
SMALL_POOL = ("--max-total-tokens", "20000")


class RunningJob:
    """Starts the job and keeps a list of every process it ever had. A context manager: all are killed."""

    def __init__(self, folder: Path, lines: list[dict[str, Any]], *flags: str) -> None:
        self.output = folder / "batch.output.jsonl"
        self._folder = folder
        batch = folder / "batch.jsonl"
        batch.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        self._screen = (folder / "screen").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sglang_blend.launch_offline", "--file", str(batch), *SMALL_POOL, *flags],
            stdout=self._screen,
            stderr=self._screen,
            start_new_session=True,
        )
        self._job = psutil.Process(self._process.pid)
        self._seen: dict[int, psutil.Process] = {}
        self._watching = True
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def __enter__(self) -> RunningJob:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watching = False
        self._watcher.join()
        self._process.kill()
        self._process.wait()
        for process in self.descendants():
            process.kill()
        self._screen.close()

    def _watch(self) -> None:
        while self._watching:
            try:
                for process in self._job.children(recursive=True):
                    self._seen.setdefault(process.pid, process)
            except psutil.NoSuchProcess:
                return
            time.sleep(0.05)

    def descendants(self, word: str = "") -> list[psutil.Process]:
        """Its processes that are alive now, and whose command line or title has the word in it."""
        return [process for process in list(self._seen.values()) if _is_alive(process, word)]

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Wait until something is true of the job, which must go on meanwhile; returns it."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert self._process.poll() is None, f"the job ended:\n{self.screen()}"
            assert time.monotonic() < deadline, f"waited in vain:\n{self.screen()}"
            time.sleep(0.02)
        return found

    def wait_for_answers(self, count: int) -> None:
        self.wait_for(lambda: len(self.answers()) >= count)

    def send(self, signum: signal.Signals) -> None:
        """Signal the job's own process, and no other."""
        self._process.send_signal(signum)

    def exit_code(self) -> int:
        """Wait for its end."""
        return self._process.wait(PATIENCE_S)

    def answers(self) -> list[dict[str, Any]]:
        """The whole lines of the output file."""
        if not self.output.exists():
            return []
        return [json.loads(line) for line in self.output.read_bytes().split(b"\n")[:-1]]

    def errors(self) -> list[dict[str, Any]]:
        """The records of the error file."""
        path = self._folder / "batch.errors.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self._folder / "batch.summary.json").read_text())
        return summary

    def screen(self) -> str:
        """What it has said so far."""
        return (self._folder / "screen").read_text()[-4000:]

    def engine_log(self) -> str:
        """The end of what its processes have said."""
        return (self._folder / "batch.engine.log").read_text()[-4000:]

    def is_gone_within(self, seconds: float) -> bool:
        """Whether no process of it is left."""
        deadline = time.monotonic() + seconds
        while self.descendants():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def _is_alive(process: psutil.Process, word: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and word in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
