"""The cost model of a running engine: from its model's config and its device's name."""

from __future__ import annotations

import logging
from typing import Any

from sglang_blend.cost.break_even import break_even_of
from sglang_blend.cost.hardware import HARDWARE, Hardware, calibrated, hardware, known_names
from sglang_blend.cost.hf_config import shape_from_config
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import ConfigError

logger = logging.getLogger(__name__)

_FALLBACK = "H100"


def hardware_of_device(device_name: str) -> Hardware:
    """The record of an accelerator ("NVIDIA H200", "cpu", ...): the calibrated one, else that of the table;
    of an unknown one that of an H100.

    Only the ratio of compute to bandwidth matters for a plan, and it varies little between data-centre
    accelerators.
    """
    if (record := calibrated(device_name)) is not None:
        return record
    return table_record(device_name)


def table_record(device_name: str) -> Hardware:
    """As `hardware_of_device`, by the table alone."""
    folded = device_name.upper().replace(" ", "").replace("-", "")
    for name in sorted(known_names(), key=len, reverse=True):
        # A driver puts words between them: "NVIDIA A100-SXM4-80GB" is an A100-80.
        if all(part in folded for part in name.upper().split("-")):
            return hardware(name)
    logger.warning(
        "%r is not in the hardware table (%s); planning takes it for an %s.",
        device_name,
        ", ".join(HARDWARE),
        _FALLBACK,
    )
    return HARDWARE[_FALLBACK]


def cost_of_engine(
    model_config: dict[str, Any],
    device_name: str,
    *,
    tp_size: int,
    kv_pool_tokens: int,
    kv_cache_dtype: str = "auto",
    shares_reads: bool = False,
) -> RooflineCost | None:
    """Cost model of a model on a device; None where the model's shape is not understood.

    Args:
        model_config: content of the model's config.json.
        device_name: as the driver says it; "cpu" for none.
        kv_pool_tokens: M, as the engine has it.
        kv_cache_dtype: SGLang's `--kv-cache-dtype`.
        shares_reads: its attention reads KV that requests share once a decode step.
    """
    try:
        return RooflineCost(
            shape=shape_from_config(model_config).with_kv_dtype(_kv_dtype(kv_cache_dtype)),
            hardware=hardware_of_device(device_name),
            tp_size=tp_size,
            pool_tokens=kv_pool_tokens,
            shared_reads=break_even_of(device_name) if shares_reads else None,
        )
    except ConfigError as e:
        logger.warning("No cost model (%s) The plan keeps sharing but does not blend.", e)
        return None


def _kv_dtype(sglang_name: str) -> str:
    """Our name of SGLang's (`fp8_e4m3`, `nvfp4`, `bfloat16` ...); the scales of blocks are left out."""
    if "fp4" in sglang_name or "fp8" in sglang_name:
        return "fp4" if "fp4" in sglang_name else "fp8"
    return "bf16" if sglang_name in ("bf16", "bfloat16") else "auto"
