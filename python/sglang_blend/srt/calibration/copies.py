"""Copy bandwidth of the device's memory."""

from __future__ import annotations

import torch

from sglang_blend.srt.calibration.timing import seconds


def copy_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written a second by a copy that no cache can hold."""
    num = 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(num // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * num / seconds(lambda: target.copy_(source), device)
