"""The process that imports SGLang once and forks the others: `processes.nursery` is its parent's side.

    python -m sglang_blend.srt.nursery CONTROL_FD PARENT_PID

It answers one request at a time: start a child, or wait for one that was killed. Where the import has left
threads or a CUDA context behind, which a fork would break, children are started afresh instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

import orjson

_MAX_MESSAGE_BYTES = 1 << 16
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# How long the processes of a killed engine may take to give back their GPU memory.
MAX_WAIT_S = 60.0
# Native libraries that start threads when they are imported, told not to; only while they are.
_NO_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy, scipy
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow, by way of pandas
}


def main(control_fd: int, parent_pid: int) -> None:
    """Import, then serve the parent until it is gone."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it was gone before we asked
        return
    # What a dead child has started becomes a child of this process, which can then wait for it.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=control_fd)
    # SGLang warns at import of kernels this machine lacks, in each of its processes.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning")
    warnings.filterwarnings("ignore", category=UserWarning)
    _import_sglang()
    forks = _is_safe_to_fork()
    gc.collect()
    gc.freeze()
    control.send(orjson.dumps({"forks": forks}))
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 1)
        if not message:
            return
        request = orjson.loads(message)
        if "wait" in request:
            control.send(orjson.dumps({"exit_code": wait_for_group(request["wait"])}))
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            _become(request["role"], fds[0], request["options"], fork=forks)
        with contextlib.suppress(OSError):  # the child does the same, whoever is first
            os.setpgid(pid, pid)
        os.close(fds[0])
        control.send(orjson.dumps({"pid": pid}))


def wait_for_group(pid: int) -> int:
    """Wait until a process that was killed, and its process group, are gone; a stuck one is left behind.

    Returns:
        The exit code of the process itself, minus the signal where it was killed.
    """
    exit_code = -signal.SIGKILL
    give_up_at = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < give_up_at:
        try:
            found, status = os.waitpid(-pid, os.WNOHANG)
        except ChildProcessError:
            break
        if found == pid:
            exit_code = os.waitstatus_to_exitcode(status)
        elif not found:
            time.sleep(0.01)
    return exit_code


def _import_sglang() -> None:
    ours = {name: value for name, value in _NO_THREADS.items() if name not in os.environ}
    os.environ.update(ours)
    import sglang_blend.srt.host
    import sglang_blend.srt.prepare_worker  # noqa: F401

    for name in ours:
        del os.environ[name]


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _is_safe_to_fork() -> bool:
    import torch

    return len(list(Path("/proc/self/task").iterdir())) == 1 and not torch.cuda.is_initialized()


def _become(role: str, fd: int, options: dict[str, object], *, fork: bool) -> None:
    """The rest of a child's life; never returns."""
    try:
        os.setpgid(0, 0)
        if not fork:
            os.set_inheritable(fd, True)
            words = [role, str(fd), orjson.dumps(options).decode()]
            os.execv(sys.executable, [sys.executable, "-m", "sglang_blend.srt.child", *words])
        from sglang_blend.srt.child import run

        run(role, fd, options)
    finally:
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
