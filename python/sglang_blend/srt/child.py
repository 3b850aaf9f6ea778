"""A process that serves a job over a socket: forked by the nursery, or started afresh as

python -m sglang_blend.srt.child ROLE SOCKET_FD OPTIONS_AS_JSON
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from typing import Any

import orjson


def run(role: str, fd: int, options: dict[str, Any]) -> None:
    """Serve as `role` until the job is gone; never returns."""
    threading.Thread(target=_die_with_the_job, args=(fd,), daemon=True).start()
    warnings.filterwarnings("ignore", category=UserWarning)
    exit_code = 1
    try:
        sock = socket.socket(fileno=fd)
        if role == "host":
            from sglang_blend.srt.host import main
        else:
            from sglang_blend.srt.prepare_worker import main
        main(sock, **options)
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
    run(sys.argv[1], int(sys.argv[2]), orjson.loads(sys.argv[3]))
