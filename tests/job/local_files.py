"""The files of a job of a test, which lie on the local disk."""

from __future__ import annotations

from typing import Any

from sglang_blend.config import JobConfig, resolve_files


def local_files(config: JobConfig) -> Any:
    """As `resolve_files`; places are paths here, never addresses."""
    return resolve_files(config)
