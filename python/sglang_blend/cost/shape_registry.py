"""Shapes of well-known models by name, so that planning needs no download.

`model_shape("llama-3-8b")` or `model_shape("/path/to/model")`. Sizes are those of the published config.json
files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_blend.cost.hf_config import shape_from_config, shape_from_path
from sglang_blend.cost.model_shape import ModelShape
from sglang_blend.errors import ConfigError


def _config(
    model_type: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> dict[str, Any]:
    sizes = {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    return {**sizes, **more}


_MLA = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3-8b": _config("llama", 4096, 14336, 32, 32, 8, 128256, max_position_embeddings=8192),
    "llama-3.1-8b": _config("llama", 4096, 14336, 32, 32, 8, 128256, max_position_embeddings=131072),
    "llama-3.1-70b": _config("llama", 8192, 28672, 80, 64, 8, 128256, max_position_embeddings=131072),
    "llama-2-7b": _config("llama", 4096, 11008, 32, 32, 32, 32000, max_position_embeddings=4096),
    "deepseek-67b": _config("llama", 8192, 22016, 95, 64, 8, 102400, max_position_embeddings=4096),
    "qwen2.5-7b": _config("qwen2", 3584, 18944, 28, 28, 4, 152064, max_position_embeddings=32768),
    "qwen2.5-72b": _config("qwen2", 8192, 29568, 80, 64, 8, 152064, max_position_embeddings=32768),
    "smollm2-135m": _config(
        "llama", 576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True, max_position_embeddings=8192
    ),
    "mistral-7b": _config(
        "mistral", 4096, 14336, 32, 32, 8, 32000, sliding_window=4096, max_position_embeddings=32768
    ),
    "gemma-2-9b": _config(
        "gemma2",
        3584,
        14336,
        42,
        16,
        8,
        256000,
        head_dim=256,
        sliding_window=4096,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
    "mixtral-8x7b": _config(
        "mixtral",
        4096,
        14336,
        32,
        32,
        8,
        32000,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=32768,
    ),
    "qwen3-30b-a3b": _config(
        "qwen3_moe",
        2048,
        6144,
        48,
        32,
        4,
        151936,
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        decoder_sparse_step=1,
        max_position_embeddings=40960,
    ),
    "deepseek-v2-lite": _config(
        "deepseek_v2",
        2048,
        10944,
        27,
        16,
        16,
        102400,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
        max_position_embeddings=163840,
        **_MLA,
    ),
    "deepseek-v3": _config(
        "deepseek_v3",
        7168,
        18432,
        61,
        128,
        128,
        129280,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        moe_intermediate_size=2048,
        first_k_dense_replace=3,
        q_lora_rank=1536,
        quantization_config={"quant_method": "fp8"},
        max_position_embeddings=163840,
        **_MLA,
    ),
}

_ALIASES = {
    "mixtral": "mixtral-8x7b",
    "llama-3-70b": "llama-3.1-70b",
    "qwen3-moe": "qwen3-30b-a3b",
    "deepseek-mla": "deepseek-v2-lite",
}


def model_shape(name_or_path: str) -> ModelShape:
    """Looks a shape up by name, or reads a model folder or config.json.

    Raises:
        ConfigError: neither a known name nor a readable model.
    """
    key = name_or_path.strip().lower()
    key = _ALIASES.get(key, key)
    if key in CONFIGS:
        return shape_from_config(CONFIGS[key], name=key)
    path = Path(name_or_path)
    if path.exists():
        return shape_from_path(path)
    raise ConfigError(
        f"model {name_or_path!r} is neither a folder nor a known shape; allowed are "
        f"{', '.join(CONFIGS)} or a folder with config.json."
    )
