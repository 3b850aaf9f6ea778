"""SGLang's scheduler and detokenizer, forked from a process that has imported SGLang already.

SGLang spawns them, and each then imports for itself: on two cores that is half of an engine's start. A fork
is there at once and shares the memory of the modules. It is safe only while no other thread runs and no
accelerator is in use, so machines with one keep SGLang's way.

SGLang 0.5.17: `Engine._launch_subprocesses`, which sets the start method and calls what is overridden here.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing as mp
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sglang.srt.entrypoints.engine import Engine
from sglang.srt.server_args import ServerArgs

Target = Callable[..., Any]


class ForkedEngine(Engine):
    """SGLang's engine; its processes are forked where that is safe, else spawned."""

    # The job's socket; a copy in a child would keep it open when this process dies.
    _sock: socket.socket

    @classmethod
    def start(cls, args: ServerArgs, sock: socket.socket) -> ForkedEngine:
        """Start an engine of the process that serves the job at `sock`."""
        cls._sock = sock
        return cls(server_args=args)

    @classmethod
    def _launch_scheduler_processes(
        cls, server_args: Any, port_args: Any, run_scheduler_process_func: Target
    ) -> Any:
        with cls._forking(run_scheduler_process_func) as target:
            return super()._launch_scheduler_processes(server_args, port_args, target)

    @classmethod
    def _launch_detokenizer_subprocesses(
        cls, server_args: Any, port_args: Any, run_detokenizer_process_func: Target
    ) -> Any:
        with cls._forking(run_detokenizer_process_func) as target:
            return super()._launch_detokenizer_subprocesses(server_args, port_args, target)

    @classmethod
    @contextlib.contextmanager
    def _forking(cls, run: Target) -> Iterator[Target]:
        """Inside, `multiprocessing` forks; gives what a process is to run, whoever starts it."""
        if not _is_safe_to_fork():
            yield run
            return
        mp.set_start_method("fork", force=True)
        try:
            yield functools.partial(_run_forked, cls._sock, run)
        finally:
            mp.set_start_method("spawn", force=True)


def _is_safe_to_fork() -> bool:
    """Whether no thread runs but Python's own: a library's would be missing in the child, its locks held."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    return threads == len(threading.enumerate()) and not torch.accelerator.is_available()


def _run_forked(sock: socket.socket, run: Target, *args: Any, **kwargs: Any) -> None:
    """In the child: give back what it has of its parent, then be what SGLang spawns."""
    sock.close()
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    mp.set_start_method("spawn", force=True)
    run(*args, **kwargs)
