"""The cost model of the engine that runs in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import torch

from sglang_blend.cost.of_engine import cost_of_engine
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.srt.attention_backend import shares_reads

if TYPE_CHECKING:
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.server_args import ServerArgs


def device_name() -> str:
    """The accelerator's name as its driver says it, or "cpu"."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def run_config(model_config: ModelConfig) -> dict[str, Any]:
    """Content of the model's config.json, in the dtype that the engine runs it in."""
    config: dict[str, Any] = orjson.loads(model_config.hf_config.to_json_string())
    return config | {"torch_dtype": str(model_config.dtype).removeprefix("torch.")}


def engine_cost(server_args: ServerArgs, kv_pool_tokens: int) -> RooflineCost | None:
    """Cost model of these server arguments; None where the model's shape is not understood."""
    return cost_of_engine(
        run_config(server_args.get_model_config()),
        device_name(),
        tp_size=server_args.tp_size,
        kv_pool_tokens=kv_pool_tokens,
        kv_cache_dtype=server_args.kv_cache_dtype,
        shares_reads=shares_reads(server_args),
    )
