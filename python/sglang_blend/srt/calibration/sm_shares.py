"""Decode attention on a share of the multiprocessors and GEMMs on the others, alone and side by side.

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
# Calls that one side runs beside the other, at first and at most: on any GPU seconds.
_CALLS, _MOST_CALLS = 500, 16_000
_LEAST_S = 0.05  # of the side that is timed


class SmShares(NamedTuple):
    """Of each share: decode attention's bandwidth over that of the whole device, its slow-down beside GEMMs,
    and theirs beside it.
    """

    shares: list[float]
    bandwidth: list[float]
    contention: list[float]
    gemm_contention: list[float]


@torch.inference_mode()
def measure_sm_shares(
    kernels: AttentionKernels, batch_size: int, context_len: int, device: torch.device
) -> SmShares:
    """Runs decode attention of one batch and square GEMMs on every division that SGLang would offer.

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

    matrix = torch.randn(_GEMM_SIZE, _GEMM_SIZE, device=device, dtype=torch.bfloat16)

    def decode() -> None:
        kernels.decode(batch_size, context_len)

    def gemm() -> None:
        torch.matmul(matrix, matrix)

    whole_s = seconds(decode, device)
    found = SmShares([], [], [], [])
    for prefill_sms, decode_sms in divisions:
        gemm_stream, decode_stream = spatial.create_greenctx_stream_by_value(
            prefill_sms, decode_sms, device.index or 0
        )
        with torch.cuda.stream(decode_stream):
            decode_s = seconds(decode, device)
        with torch.cuda.stream(gemm_stream):
            gemm_s = seconds(gemm, device)
        found.shares.append(decode_sms / total)
        found.bandwidth.append(min(1.0, whole_s / decode_s))
        found.contention.append(_slow_down(decode, decode_s, decode_stream, gemm, gemm_stream))
        found.gemm_contention.append(_slow_down(gemm, gemm_s, gemm_stream, decode, decode_stream))
    return found


def _slow_down(
    timed: Callable[[], None],
    alone_s: float,
    stream: torch.cuda.Stream,
    other: Callable[[], None],
    other_stream: torch.cuda.Stream,
) -> float:
    """How many times as long a call takes while the other stream is busy all the time; from 1.

    Raises:
        RuntimeError: it never ended before the other stream's calls did.
    """
    calls, num_others = max(10, int(_LEAST_S / alone_s)), _CALLS
    while num_others <= _MOST_CALLS:
        with torch.cuda.stream(other_stream):
            for _ in range(num_others):
                other()
        with torch.cuda.stream(stream):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                timed()
            end.record()
            end.synchronize()
        others_lasted = not other_stream.query()
        other_stream.synchronize()
        if others_lasted:
            return max(1.0, float(start.elapsed_time(end)) / 1e3 / calls / alone_s)
        num_others *= 2
    raise RuntimeError("decode attention and GEMMs do not run side by side on parts of the multiprocessors")
