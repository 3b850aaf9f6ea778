"""Decode attention on a share of the multiprocessors, alone and beside GEMMs on the others.

Green contexts as SGLang's PD-multiplexing makes them (`sgl_kernel.spatial`, 0.5.17), of the sizes that it
would choose from. Has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from sglang_blend.srt.calibration.attention import AttentionKernels
from sglang_blend.srt.calibration.timing import seconds


class SmShares(NamedTuple):
    """Of each share: decode attention's bandwidth over that of the whole device, and its slow-down beside
    GEMMs.
    """

    shares: list[float]
    bandwidth: list[float]
    contention: list[float]


@torch.inference_mode()
def measure_sm_shares(
    kernels: AttentionKernels, batch_size: int, context_len: int, device: torch.device, steps: int = 5
) -> SmShares:
    """Runs decode attention of one batch on some divisions of the device.

    Args:
        steps: divisions to try, evenly over those that the device allows.
    """
    from sgl_kernel import spatial

    total = spatial.get_sm_available(device.index or 0)
    sizes = list(range(16, total - 15, 8))
    sizes = sizes[:: max(1, len(sizes) // steps)]

    def decode() -> None:
        kernels.decode(batch_size, context_len)

    whole_s = seconds(decode, device)
    left = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    found = SmShares([], [], [])
    for size in sizes:
        gemm_stream, decode_stream = spatial.create_greenctx_stream_by_value(
            total - size, size, device.index or 0
        )
        with torch.cuda.stream(decode_stream):
            alone_s = seconds(decode, device)
        beside_s = _beside_gemms(decode, alone_s, left, gemm_stream, decode_stream)
        found.shares.append(size / total)
        found.bandwidth.append(min(1.0, whole_s / alone_s))
        found.contention.append(max(1.0, beside_s / alone_s))
    return found


def _beside_gemms(
    decode: Callable[[], None],
    alone_s: float,
    matrix: torch.Tensor,
    gemm_stream: torch.cuda.Stream,
    decode_stream: torch.cuda.Stream,
) -> float:
    """Seconds of a decode call while the other stream multiplies matrices all the time."""
    calls, num_gemms = max(10, int(0.05 / alone_s)), 500
    while True:
        with torch.cuda.stream(gemm_stream):
            for _ in range(num_gemms):
                torch.matmul(matrix, matrix)
        with torch.cuda.stream(decode_stream):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                decode()
            end.record()
            end.synchronize()
        gemms_lasted = not gemm_stream.query()
        gemm_stream.synchronize()
        if gemms_lasted:
            return float(start.elapsed_time(end)) / 1e3 / calls
        num_gemms *= 2
