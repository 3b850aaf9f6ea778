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
from typing import Any

from sglang_blend.processes.last_words import last_words
from sglang_blend.processes.messages import pack_ids, receive, send
from sglang_blend.processes.nursery import Child


class WordNursery:
    """Stands where `Nursery` does for a `PreparePool`."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        self.num_started = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, role: str, options: dict[str, Any]) -> Child:
        assert role == "prepare"
        self.num_started += 1
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *options["argv"]],
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
        send(sock, {"error": "no such flag", "kind": "ConfigError"})
        return
    send(sock, {"ready": True})
    while (message := receive(sock)) is not None:
        results, ids = [], []
        for line in message.head["lines"]:
            prompt = line["body"]["prompt"]
            if prompt == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if prompt.startswith("die once "):
                with contextlib.suppress(FileExistsError):
                    Path(prompt.removeprefix("die once ")).touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            if prompt == "hang":
                time.sleep(1000)
            if prompt == "refuse":
                results.append({"code": "invalid_value", "message": "no", "line_number": line["line_number"]})
                continue
            ids.append([len(word) for word in prompt.split()])
            results.append([len(ids[-1]), 8, False, ""])
        send(sock, {"results": results}, pack_ids(ids))


if __name__ == "__main__":
    work(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
