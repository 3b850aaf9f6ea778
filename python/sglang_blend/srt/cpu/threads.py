"""Thread settings of the CPU platform, as environment that OpenMP reads when a process loads it.

Measured on two shared cores: OpenMP threads that spin at a barrier while another process has their core turn
17 ms of attention into 525 ms. Threads that sleep instead cost nothing where cores are free.
"""

from __future__ import annotations

import os

from sglang_blend.machine import usable_cores

# Threads sleep at barriers, and are no more than cores.
THREAD_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(usable_cores())}


def set_thread_defaults() -> None:
    """Set them for the processes that are spawned from now on; what the user set stays."""
    for name, value in THREAD_DEFAULTS.items():
        os.environ.setdefault(name, value)
