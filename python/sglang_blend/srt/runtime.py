"""`sglang_blend.Runtime`: SGLang's runtime, an HTTP server in a process of its own, under our policy.

    runtime = sglang_blend.Runtime(model_path="...")
    sglang.set_default_backend(runtime)      # the frontend language
    runtime.shutdown()

Requests come one by one, so nothing is planned ahead: the scheduler plans what waits, pool by pool.

SGLang 0.5.17: `Runtime.__init__` is written anew here, because it starts the server in the middle.
"""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing
import threading
import time
from typing import Any

import psutil
import requests
from sglang.lang.backend.runtime_endpoint import Runtime as SGLangRuntime
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.srt.entrypoints.http_server import launch_server
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils import kill_process_tree
from sglang.srt.utils.network import is_port_available

from sglang_blend import fork
from sglang_blend.srt.flags import with_engine_defaults
from sglang_blend.srt.own_processes import children_without_interrupts, end_processes

_LAST_PORT = 40000
_POLL_INTERVAL_S = 0.5


class Runtime(SGLangRuntime):
    """Takes SGLang's arguments (`ServerArgs`); `url`, `endpoint` and every method are SGLang's.

    Args:
        log_level: of the server.
        launch_timeout: seconds that it may take to start.
        *args: of SGLang's `ServerArgs`.
        **kwargs: likewise. Without `model_path` the demo model is used; without
            `schedule_policy` ours, "dual-scan".

    Raises:
        ForkError: the installed sglang is not the fork.
        RuntimeError: the server died while it started; its words are on stderr.
        TimeoutError: it did not start in time.
    """

    def __init__(
        self, log_level: str = "error", launch_timeout: float = 300.0, *args: Any, **kwargs: Any
    ) -> None:
        self.pid: int | None = None  # first of all: `__del__` asks
        fork.require()
        load_plugins()
        kwargs |= zip((field.name for field in dataclasses.fields(ServerArgs)), args, strict=False)
        self.server_args = ServerArgs(log_level=log_level, **with_engine_defaults(kwargs))
        ports = range(self.server_args.port, _LAST_PORT)
        self.server_args.override(
            "runtime_endpoint.port_alloc", port=next(port for port in ports if is_port_available(port))
        )
        self.url = self.server_args.url()
        self.generate_url = f"{self.url}/generate"
        with children_without_interrupts():
            server = multiprocessing.get_context("spawn").Process(target=_serve, args=(self.server_args,))
            server.start()
        self.pid = server.pid
        atexit.register(self.shutdown)
        try:
            self._wait_until_ready(server, launch_timeout)
            self.endpoint = RuntimeEndpoint(self.url)
        except BaseException:
            self.shutdown()
            raise

    def shutdown(self) -> None:
        """End the server and wait until its processes are gone; more than once does no harm."""
        pid, self.pid = self.pid, None
        if pid is not None:
            atexit.unregister(self.shutdown)
            end_processes([pid])

    def _wait_until_ready(self, server: multiprocessing.process.BaseProcess, timeout_s: float) -> None:
        give_up_at = time.monotonic() + timeout_s
        with requests.Session() as session:
            while time.monotonic() < give_up_at:
                if not server.is_alive():
                    raise RuntimeError("Initialization failed. Please see the error messages above.")
                try:
                    if session.get(f"{self.url}/health_generate").status_code == requests.codes.ok:
                        return
                except requests.RequestException:
                    pass
                time.sleep(_POLL_INTERVAL_S)
        raise TimeoutError("Server failed to start within the timeout period.")


def _serve(server_args: ServerArgs) -> None:
    """The server's process: serve until the parent is gone, however it went."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    launch_server(server_args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "the server is a child of the process that made the Runtime"
    parent.join()
    kill_process_tree(psutil.Process().pid)
