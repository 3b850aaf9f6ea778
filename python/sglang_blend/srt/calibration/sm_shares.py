"""Decode attention on a share of the multiprocessors, alone and beside GEMMs on the others.

Green contexts as SGLang's PD-multiplexing makes them (`sgl_kernel.spatial`, 0.5.17), in the divisions that it
offers (`pdmux_context.divide_sm`): others come out in other sizes than asked for. Has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from sglang_blend.srt.calibration.attention import AttentionKernels
from sglang_blend.srt.calibration.timing import seconds

_GEMM_SIZE = 4096
# GEMMs that decode runs beside, at first and at most: on any GPU seconds.
_GEMMS, _MOST_GEMMS = 500, 16_000


class SmShares(NamedTuple):
    """Of each share: decode attention's bandwidth over that of the whole device, and its slow-down beside
    GEMMs.
    """

    shares: list[float]
    bandwidth: list[float]
    contention: list[float]


@torch.inference_mode()
def measure_sm_shares(
    kernels: AttentionKernels, batch_size: int, context_len: int, device: torch.device
) -> SmShares:
    """Runs decode attention of one batch on every division that SGLang would offer.

    Raises:
        ImportError: no `sgl_kernel` with green contexts.
        RuntimeError: the driver makes none, or they do not run side by side.
        ValueError: SGLang divides no device of this compute capability.
    """
    from sgl_kernel import spatial
    from sglang.srt.multiplex.pdmux_context import PDMuxConfig, divide_sm

    total = spatial.get_sm_available(device.index or 0)
    capability = torch.cuda.get_device_capability(device)
    # The first and the last group are the whole device.
    divisions = divide_sm(total, capability, PDMuxConfig().sm_group_num - 2)

    def decode() -> None:
        kernels.decode(batch_size, context_len)

    whole_s = seconds(decode, device)
    left = torch.randn(_GEMM_SIZE, _GEMM_SIZE, device=device, dtype=torch.bfloat16)
    found = SmShares([], [], [])
    for prefill_sms, decode_sms in divisions:
        gemm_stream, decode_stream = spatial.create_greenctx_stream_by_value(
            prefill_sms, decode_sms, device.index or 0
        )
        with torch.cuda.stream(decode_stream):
            alone_s = seconds(decode, device)
        beside_s = _beside_gemms(decode, alone_s, left, gemm_stream, decode_stream)
        found.shares.append(decode_sms / total)
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
    """Seconds of a decode call while the other stream multiplies matrices all the time.

    Raises:
        RuntimeError: decode never ended before the matrices did.
    """
    calls, num_gemms = max(10, int(0.05 / alone_s)), _GEMMS
    while num_gemms <= _MOST_GEMMS:
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
    raise RuntimeError("decode attention does not run beside GEMMs on the other multiprocessors")
