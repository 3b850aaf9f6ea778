"""A nursery whose workers know no SGLang: they split prompts into words, and die or hang when one says so."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from sglang_blend.engine.messages import (
    Accepted,
    Lines,
    Refused,
    Results,
    StartWorker,
    receive,
    send,
    unpack_line,
)
from sglang_blend.engine.nursery import Child, last_words
from sglang_blend.request import Prepared, Rejection


class WordNursery:
    """Stands where `Nursery` does for a `PreparePool`."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.num_started = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, message: StartWorker) -> Child:
        self.num_started += 1
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *message.argv],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        self._processes[process.pid] = process
        return Child(process.pid, ours)

    def end(self, child: Child) -> str:
        process = self._processes.pop(child.pid)
        process.kill()
        child.sock.close()
        return f"exit code {process.wait()}"

    def last_words(self) -> str:
        return last_words(self.log)

    def pids(self) -> list[int]:
        return list(self._processes)


def work(sock: socket.socket, argv: list[str]) -> None:
    if argv == ["--bad-flag"]:
        send(sock, Refused("ConfigError", "no such flag"))
        return
    if argv == ["--dies-at-its-start"]:
        return
    if argv == ["--dies-at-its-start"]:
        return
    send(sock, Accepted())
    while isinstance(message := receive(sock), Lines):
        results: list[Prepared | Rejection] = []
        for line in map(unpack_line, message.lines):
            prompt = line.body["prompt"]
            if prompt == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if prompt.startswith("die once "):
                with contextlib.suppress(FileExistsError):
                    Path(prompt.removeprefix("die once ")).touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            if prompt == "hang":
                time.sleep(1000)
            if prompt == "refuse":
                results.append(Rejection(code="invalid_value", message="no", line_number=line.line_number))
                continue
            results.append(Prepared([len(word) for word in prompt.split()], 8, False, ""))
        send(sock, Results(results))


if __name__ == "__main__":
    work(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
