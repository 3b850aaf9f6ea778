"""Thread settings of the CPU platform, as environment for the processes that SGLang spawns.

Measured on two shared cores: OpenMP threads that spin at a barrier while another process has their core turn
17 ms of attention into 525 ms. Threads that sleep instead cost nothing where cores are free.
"""

from __future__ import annotations

import os

from sglang_blend.machine import usable_cores


def set_thread_defaults() -> None:
    """Let OpenMP threads sleep at barriers and start no more of them than cores; what the user set stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
