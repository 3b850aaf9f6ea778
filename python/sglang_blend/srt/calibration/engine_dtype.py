"""The dtype that the engine computes in on this machine."""

from __future__ import annotations

import torch

from sglang_blend.srt.cpu.dtype import has_fast_bfloat16


def engine_dtype(name: str) -> torch.dtype:
    """Of `auto`: bfloat16, on CPUs without instructions for it float32; or the named one."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if torch.cuda.is_available() or has_fast_bfloat16() else torch.float32
