"""What this machine offers: cores to use, and a folder for things that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Cores this process may use: its affinity, capped by a container's CPU quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores


def cache_dir(name: str) -> Path:
    """Where the demo model and the stock and the forked wheel are kept:
    `$SGLANG_BLEND_CACHE/name`, `$XDG_CACHE_HOME/sglang-blend/name` or `~/.cache/sglang-blend/name`.

    Read when called, never at import; the folder is not created.
    """
    own = os.environ.get("SGLANG_BLEND_CACHE")
    if own:
        return Path(own) / name
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sglang-blend" / name


def num_oom_kills() -> int:
    """Processes that the kernel has ended for want of memory: of this control group, else of this machine."""
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        places = [Path(f"/sys/fs/cgroup{group}/memory.events"), Path("/sys/fs/cgroup/memory.events")]
        place = next((place for place in places if place.exists()), Path("/proc/vmstat"))
        counts = dict(line.split() for line in place.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, KeyError, ValueError):
        return 0
