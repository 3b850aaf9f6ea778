"""The nursery, a process that imports SGLang once and forks the others, and what those do first.

    python -m sglang_blend.srt.children nursery CONTROL_FD PARENT_PID

`engine.nursery` is its parent's side. It answers one message at a time: start a child, or await the end of
one that was killed. Where the import has left threads or a CUDA context behind, which a fork would break,
children are started afresh instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from sglang_blend.srt.cpu.threads import THREAD_DEFAULTS

_MAX_MESSAGE_BYTES = 1 << 16
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# How long the processes of a killed engine may take to give back their GPU memory.
MAX_WAIT_S = 60.0
# What native libraries read when they are imported, and only then: most are told to start no threads.
_READ_AT_IMPORT = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy, scipy
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow, by way of pandas
    **THREAD_DEFAULTS,  # for a scheduler that is forked
}


def serve(control_fd: int, parent_pid: int) -> None:
    """The nursery: import, then start and await children until the parent is gone."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it was gone before we asked
        return
    # What a dead child has started becomes a child of this process, which can then wait for it.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=control_fd)
    # SGLang warns at import of kernels this machine lacks, in each of its processes.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning")
    warnings.filterwarnings("ignore", category=UserWarning)
    gc.disable()  # a quarter of the time of the import goes into looking for garbage
    _import_sglang()
    from sglang_blend.engine import messages  # only now, because numpy comes with it

    forks = _is_safe_to_fork()
    gc.collect()
    gc.freeze()
    gc.enable()
    control.send(messages.pack(messages.Imported(forks)))
    while True:
        frame, fds, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 1)
        if not frame:
            return
        match messages.unpack(frame):
            case messages.AwaitEnd(pid):
                control.send(messages.pack(messages.Ended(wait_for_group(pid))))
            case messages.StartHost() | messages.StartWorker():
                pid = os.fork()
                if pid == 0:
                    control.close()
                    _become(frame, fds[0], fork=forks)
                with contextlib.suppress(OSError):  # the child does the same, whoever is first
                    os.setpgid(pid, pid)
                os.close(fds[0])
                control.send(messages.pack(messages.Started(pid)))


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
    ours = {name: value for name, value in _READ_AT_IMPORT.items() if name not in os.environ}
    os.environ.update(ours)
    from sglang.srt.plugins import load_plugins

    import sglang_blend.srt.host
    import sglang_blend.srt.prepare_worker  # noqa: F401

    for name in ours:
        del os.environ[name]
    load_plugins()  # once for all: it looks through every module


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _is_safe_to_fork() -> bool:
    import torch

    return len(list(Path("/proc/self/task").iterdir())) == 1 and not torch.cuda.is_initialized()


def _become(frame: bytes, fd: int, *, fork: bool) -> None:
    """The rest of a child's life; never returns."""
    try:
        os.setpgid(0, 0)
        if not fork:
            os.set_inheritable(fd, True)
            words = [str(fd), frame.hex()]
            os.execv(sys.executable, [sys.executable, "-m", "sglang_blend.srt.children", "child", *words])
        run(frame, fd)
    finally:
        sys.stderr.flush()
        os._exit(1)


def run(frame: bytes, fd: int) -> None:
    """A child: serve the job over its socket until that is gone; never returns.

    Args:
        frame: a `StartHost` or `StartWorker`.
    """
    threading.Thread(target=_die_with_the_job, args=(fd,), daemon=True).start()
    warnings.filterwarnings("ignore", category=UserWarning)
    exit_code = 1
    try:
        from sglang_blend.engine import messages

        sock = socket.socket(fileno=fd)
        match messages.unpack(frame):
            case messages.StartHost(argv, stats_file):
                from sglang_blend.srt import host

                host.main(sock, argv, stats_file)
            case messages.StartWorker(argv):
                from sglang_blend.srt import prepare_worker

                prepare_worker.main(sock, argv)
        exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def _die_with_the_job(fd: int) -> None:
    """Kill this process group, whatever it is doing, when the job's end of the socket is closed."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    poll.poll()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["nursery", control_fd, parent_pid]:
            serve(int(control_fd), int(parent_pid))
        case ["child", fd, frame]:
            run(bytes.fromhex(frame), int(fd))
