"""One pass over everything, and the hardware record that comes of it."""

from __future__ import annotations

import logging
import os
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from sglang_blend.cost.hardware import Hardware
from sglang_blend.cost.measured import MeasuredRates
from sglang_blend.cost.of_engine import table_record
from sglang_blend.errors import ConfigError
from sglang_blend.srt.calibration.attention import (
    AttentionKernels,
    decode_bytes_per_s,
    kernels_of,
    prefill_flop_per_s,
)
from sglang_blend.srt.calibration.copies import copy_bytes_per_s
from sglang_blend.srt.calibration.layer import LayerShape, gemm_flop_per_s
from sglang_blend.srt.calibration.sm_shares import measure_sm_shares

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is run: tokens of a step, of a prompt, and requests times tokens of a decode step."""

    gemm_tokens: tuple[int, ...]
    prompt_len: int
    batch_size: int
    context_len: int


_SIZES = {
    "cpu": Sizes(
        gemm_tokens=(1, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        prompt_len=1024,
        batch_size=16,
        context_len=1024,
    ),
    "cuda": Sizes(
        gemm_tokens=(1, 8, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384),
        prompt_len=8192,
        batch_size=256,
        context_len=2048,
    ),
}


def measure(
    model_config: dict[str, Any], model: str, dtype: torch.dtype, sizes: Sizes | None = None
) -> Hardware:
    """The record of the present machine: its first GPU, or all usable cores.

    Args:
        model_config: content of a config.json, whose layers are run.
        model: its name, for the record.
        sizes: what to run; those of the kind of device unless given.

    Raises:
        ConfigError: the layers are not those of a Llama-like model.
    """
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        shape = LayerShape.of(model_config)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"--model-path {model!r} has no layers that can be run here ({error} in its config.json); name a "
            "Llama-like model."
        ) from error
    sizes = sizes or _SIZES[device.type]
    logger.info("Copies of memory.")
    bytes_per_s = copy_bytes_per_s(device)
    logger.info("Linear layers of %s in %s, %d sizes.", model, dtype, len(sizes.gemm_tokens))
    flop_per_s = gemm_flop_per_s(shape, list(sizes.gemm_tokens), dtype, device)
    logger.info("Attention.")
    kernels = kernels_of(shape, dtype, device)
    attention_flop_per_s = prefill_flop_per_s(kernels, shape, sizes.prompt_len, device)
    attention_bytes_per_s = decode_bytes_per_s(
        kernels, shape, dtype, sizes.batch_size, sizes.context_len, device
    )
    measured = MeasuredRates(
        gemm_tokens=tuple(float(n) for n in sizes.gemm_tokens),
        gemm_flop_per_s=tuple(flop_per_s),
        prefill_attention_flop_per_s=attention_flop_per_s,
        decode_attention_bytes_per_s=attention_bytes_per_s,
        model=f"{model}, {str(dtype).removeprefix('torch.')}",
        **_shares(kernels, sizes, device),
    )
    return Hardware(
        name=device_label(device),
        peak_flop_per_s=max(flop_per_s),
        peak_bytes_per_s=bytes_per_s,
        effective_flop_per_s=max(flop_per_s),
        effective_bytes_per_s=bytes_per_s,
        memory_bytes=_memory_bytes(device),
        fp8_speedup=table_record(device_label(device)).fp8_speedup,  # not measured
        source="measured: the best rates seen",
        effective_source="measured by sglang-blend calibrate",
        measured=measured,
    )


def _shares(kernels: AttentionKernels, sizes: Sizes, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    logger.info("Decode attention on a share of the multiprocessors.")
    try:
        found = measure_sm_shares(kernels, sizes.batch_size, sizes.context_len, device)
    except (ImportError, RuntimeError, ValueError) as error:  # no green contexts: see there
        logger.warning("The device cannot be divided (%s): no shares in the record.", error)
        return {}
    return {
        "sm_shares": tuple(found.shares),
        "sm_share_bandwidth": tuple(found.bandwidth),
        "contention": statistics.median(found.contention),
        "gemm_contention": statistics.median(found.gemm_contention),
    }


def device_label(device: torch.device) -> str:
    """The name that the engine looks its record up by."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _memory_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
