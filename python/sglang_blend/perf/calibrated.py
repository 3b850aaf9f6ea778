"""Where the record of a calibrated machine lies: `<cache>/hardware/<device>.json`, one a kind of device.

`sglang-blend calibrate` writes it, `hardware_of_device` prefers it to the table. The environment variable
SGLANG_BLEND_HARDWARE names another file, as for a container, or is `none`: then the table stands.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sglang_blend.cache_dir import cache_dir
from sglang_blend.perf.hardware import Hardware, hardware_from_file

VARIABLE = "SGLANG_BLEND_HARDWARE"


def calibrated_file(device_name: str) -> Path:
    """The place for a device ("NVIDIA H200", "cpu"), whether or not there is a record."""
    return cache_dir("hardware") / f"{re.sub(r'[^A-Za-z0-9.]+', '-', device_name)}.json"


def calibrated(device_name: str) -> Hardware | None:
    """The record of a device; None where nobody has calibrated.

    Raises:
        ConfigError: there is one, and it cannot be used.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "none" else hardware_from_file(Path(named))
    path = calibrated_file(device_name)
    return hardware_from_file(path) if path.exists() else None
