"""Reads a Hugging Face config into a `ModelShape`: MHA, GQA, MQA, MLA, MoE, sliding windows.

`shape_from_config(config)` takes the dict of config.json, `shape_from_path(folder)` finds it. Parameters are
counted from the sizes, layer by layer, biases and norms included, so that totals agree with published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sglang_blend.cost.model_shape import ModelShape, check_shape
from sglang_blend.errors import ConfigError

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a `model_type` implies beyond its sizes."""

    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    tied_by_default: bool = False
    windows: str = "none"  # none | all | alternate | pattern | max_window_layers | chunks
    full_every: int = 6  # of windows="pattern": this layer of so many sees everything, unless the config says
    defaults: Mapping[str, int] = field(default_factory=dict)  # sizes that published configs leave out


_GEMMA3_SIZES = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
}
_QWEN2 = Family(qkv_bias=True, windows="max_window_layers")
_QWEN3 = Family(qk_norm=True, windows="max_window_layers")
_LLAMA4 = Family(windows="chunks")

# Model types whose layers are plain attention + gated MLP (or routed gated MLPs), as SGLang 0.5.17 runs them.
FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(windows="all"),
    "mixtral": Family(windows="all"),
    "qwen2": _QWEN2,
    "qwen2_moe": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "gemma": Family(tied_by_default=True),
    "gemma2": Family(tied_by_default=True, norms_per_layer=4, windows="alternate"),
    "gemma3_text": Family(
        tied_by_default=True, norms_per_layer=4, qk_norm=True, windows="pattern", defaults=_GEMMA3_SIZES
    ),
    "phi3": Family(windows="all"),
    "olmo2": Family(qk_norm=True),
    "granite": Family(),
    "smollm3": Family(),
    "deepseek_v2": Family(),
    "deepseek_v3": Family(),
    "gpt_oss": Family(qkv_bias=True, out_bias=True, windows="alternate"),
    # The language models of vision models, in their own files and as Transformers nests them.
    "qwen2_vl": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3,
    "glm4v_text": Family(norms_per_layer=4),
    "glm4v_moe_text": Family(),
    "llama4_text": _LLAMA4,
    # Made like one of those above.
    "internlm2": Family(),
    "kimi_k2": Family(),
    "ministral3": Family(windows="all"),
    "mimo": Family(qkv_bias=True),
    "seed_oss": Family(qkv_bias=True),
    "ernie4_5": Family(tied_by_default=True),
    "hunyuan_v1_dense": Family(qk_norm=True),
    "exaone4": Family(qk_norm=True, windows="pattern", full_every=4),
    "cohere": Family(tied_by_default=True, norms_per_layer=1),
    "cohere2": Family(tied_by_default=True, norms_per_layer=1, windows="pattern", full_every=4),
    "olmo3": Family(qk_norm=True, windows="pattern", full_every=4),
    "olmoe": Family(qk_norm=True),
    "granitemoe": Family(),
    "phimoe": Family(windows="all"),
    "glm4": Family(norms_per_layer=4),
    "glm4_moe": Family(),
    "glm4_moe_lite": Family(),
    "dots1": Family(qk_norm=True, windows="max_window_layers"),
    "minimax_m2": Family(qk_norm=True),
}
# Where multi-modal models keep the config of their language model.
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")

# Keys and layer kinds that give a hybrid away, whatever its model_type says.
_HYBRID_KEYS = (
    "mamba_d_state",
    "mamba_n_heads",
    "mamba_num_heads",
    "ssm_cfg",
    "ssm_state_size",
    "state_size",
    "hybrid_override_pattern",
    "attn_layer_period",
    "linear_conv_kernel_dim",
    "linear_attn_config",
    "full_attn_idxs",
    "attn_type_list",
    "lru_width",
    "conv_L_cache",
    "full_attention_interval",
    "time_mix_extra_dim",
)
_HYBRID_TYPES = (
    "mamba",
    "mamba2",
    "falcon_mamba",
    "falcon_h1",
    "jamba",
    "bamba",
    "zamba",
    "zamba2",
    "qwen3_next",
    "nemotron_h",
    "lfm2",
    "granitemoehybrid",
    "recurrent_gemma",
    "kimi_linear",
    "minimax",
    "rwkv",
    "rwkv6",
    "rwkv7",
)
_WINDOW_KINDS = ("sliding_attention", "chunked_attention")


def shape_from_path(path: Path, *, name: str | None = None) -> ModelShape:
    """Reads config.json of a model folder (or the file itself).

    Raises:
        ConfigError: no readable config.json, or a model that cannot be modelled.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = orjson.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"model config {str(file)!r} cannot be read: {error.strerror}; give a model folder."
        ) from error
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"model config {str(file)!r} is not JSON ({error}); download the model again."
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"model config {str(file)!r} is not a JSON object; download the model again.")
    return shape_from_config(config, name=name or (path.name if path.is_dir() else path.parent.name))


def shape_from_config(config: Config, *, name: str | None = None) -> ModelShape:
    """Turns a Hugging Face config dict into a shape.

    Args:
        config: the content of config.json; a multi-modal wrapper's `text_config` is used where there is one.
        name: for reports; by default the config's own path or model_type.

    Raises:
        ConfigError: unknown or hybrid model type, or a missing or impossible size.
    """
    quantization = config.get("quantization_config")
    for key in _TEXT_CONFIGS:
        if isinstance(text := config.get(key), Mapping):
            inherited = {"tie_word_embeddings", "torch_dtype", "dtype"}
            config = {**{k: config[k] for k in inherited if k in config}, **text}
    model_type = config.get("model_type")
    _refuse_hybrid(config, model_type)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(
            f"model type {model_type!r} is not among the {len(FAMILIES)} that are modelled (llama, qwen3, "
            "gemma3_text, deepseek_v3, gpt_oss ...); `sglang-blend plan` and `simulate` take a similar one "
            "by --model-shape."
        )
    family = FAMILIES[model_type]
    config = {**family.defaults, **config}
    try:
        shape = _shape(config, family, name or str(config.get("_name_or_path") or model_type), quantization)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"model config of type {model_type!r} has a value that was not expected ({error}); check "
            "config.json."
        ) from error
    return check_shape(shape)


def _refuse_hybrid(config: Config, model_type: object) -> None:
    layer_kinds = config.get("layer_types") or config.get("layers_block_type") or ()
    foreign = [k for k in layer_kinds if k not in ("full_attention", *_WINDOW_KINDS)]
    keys = [key for key in _HYBRID_KEYS if config.get(key) is not None]
    if "attn_type_list" in keys and all(config["attn_type_list"]):  # 1 is full attention
        keys.remove("attn_type_list")
    if model_type in _HYBRID_TYPES or foreign or keys:
        sign = (
            f"layers of kind {foreign[0]!r}"
            if foreign
            else f"the key {keys[0]!r}"
            if keys
            else "state-space layers"
        )
        raise ConfigError(
            f"model type {model_type!r} is a hybrid ({sign}), whose memory does not grow with the context as "
            "the cost model assumes; order its batches with --order dfs; `sglang-blend plan` and `simulate` "
            "take a similar pure-attention model by --model-shape."
        )


def _size(config: Config, key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigError(
            f"model config: {key} is {value!r}, allowed is a whole number above 0; check config.json."
        )
    return value


def _shape(config: Config, family: Family, name: str, quantization: object) -> ModelShape:
    hidden, layers = _size(config, "hidden_size"), _size(config, "num_hidden_layers")
    heads, vocab = _size(config, "num_attention_heads"), _size(config, "vocab_size")
    tied = bool(config.get("tie_word_embeddings", family.tied_by_default))
    is_mla = config.get("kv_lora_rank") is not None
    attention = (
        _mla_params(config, hidden, heads) if is_mla else _attention_params(config, family, hidden, heads)
    )
    dense_layer, moe_layer_fixed, experts = _mlp_params(config, hidden)
    num_moe = _num_moe_layers(config, layers) if experts else 0
    head = vocab * hidden
    embedding = 0 if tied else head
    shared = head + embedding + hidden + layers * (attention + family.norms_per_layer * hidden)
    shared += (layers - num_moe) * dense_layer + num_moe * moe_layer_fixed
    num_experts = _num_experts(config)
    per_token = _size(config, "num_experts_per_tok", config.get("num_experts_per_token")) if num_moe else 0
    expert_params = float(num_moe * num_experts * experts)
    window, num_window = _windows(config, family, layers)
    weight_bytes, native_bytes = _weight_bytes(config, quantization)
    if is_mla:
        rank, rope = _size(config, "kv_lora_rank"), _size(config, "qk_rope_head_dim")
        kv_heads, kv_width = 1, rank + rope
        qk_dim, v_dim = _size(config, "qk_nope_head_dim") + rope, _size(config, "v_head_dim")
        decode_flop = 2.0 * heads * (2 * rank + rope)
    else:
        kv_heads, qk_dim = _size(config, "num_key_value_heads", heads), _head_dim(config, hidden, heads)
        v_dim, kv_width = qk_dim, 2 * kv_heads * qk_dim
        decode_flop = 2.0 * heads * 2 * qk_dim
    return ModelShape(
        name=name,
        num_params=float(shared) + expert_params,
        active_params=float(shared) + (expert_params * per_token / num_experts if num_moe else 0.0),
        head_params=float(head),
        embedding_params=float(embedding),
        expert_params=expert_params,
        num_experts=num_experts if num_moe else 0,
        experts_per_token=per_token,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        qk_dim=qk_dim,
        v_dim=v_dim,
        kv_width=kv_width,
        decode_flop_per_pair=decode_flop,
        window=window,
        num_window_layers=num_window,
        weight_bytes_per_param=weight_bytes,
        kv_bytes=native_bytes,
        max_context_len=config.get("max_position_embeddings"),
    )


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    return _size(config, "head_dim", hidden // heads)


def _attention_params(config: Config, family: Family, hidden: int, heads: int) -> int:
    head_dim = _head_dim(config, hidden, heads)
    kv_heads = _size(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise ConfigError(
            f"model config: {heads} query heads do not divide into {kv_heads} KV heads; check config.json."
        )
    q, kv = heads * head_dim, kv_heads * head_dim
    params = hidden * (2 * q + 2 * kv)
    if config.get("attention_bias", family.qkv_bias):
        params += q + 2 * kv + (hidden if family.out_bias or "attention_bias" in config else 0)
    return params + (2 * head_dim if family.qk_norm else 0)


def _mla_params(config: Config, hidden: int, heads: int) -> int:
    rank, rope = _size(config, "kv_lora_rank"), _size(config, "qk_rope_head_dim")
    nope, value = _size(config, "qk_nope_head_dim"), _size(config, "v_head_dim")
    q_width = heads * (nope + rope)
    q_rank = config.get("q_lora_rank")
    query = hidden * q_width if q_rank is None else q_rank * (hidden + 1 + q_width)
    return query + hidden * (rank + rope) + rank + rank * heads * (nope + value) + heads * value * hidden


def _mlp_params(config: Config, hidden: int) -> tuple[int, int, int]:
    """Parameters of a dense MLP, of an MoE layer outside its routed experts, and of one routed expert."""
    bias = bool(config.get("mlp_bias", False))
    inner = _size(config, "intermediate_size")
    dense_inner = _size(config, "intermediate_size_mlp", inner)
    dense = 3 * hidden * dense_inner + (2 * dense_inner + hidden if bias else 0)
    num_experts = _num_experts(config)
    if not num_experts:
        return dense, 0, 0
    expert_inner = _size(config, "moe_intermediate_size", inner)
    expert = 3 * hidden * expert_inner
    fixed = hidden * num_experts
    if config.get("n_shared_experts"):
        fixed += expert * _size(config, "n_shared_experts")
    if config.get("intermediate_size_mlp"):  # Llama 4 has one, and says so nowhere
        fixed += expert
    if config.get("shared_expert_intermediate_size"):
        fixed += 3 * hidden * _size(config, "shared_expert_intermediate_size") + hidden
    return dense, fixed, expert


def _num_experts(config: Config) -> int:
    for key in ("num_local_experts", "n_routed_experts", "num_experts"):
        if config.get(key):
            return _size(config, key)
    return 0


def _num_moe_layers(config: Config, layers: int) -> int:
    first = int(config.get("first_k_dense_replace") or 0)
    step = int(config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step") or 1)
    dense_only = set(config.get("mlp_only_layers") or ())
    return sum(1 for i in range(first, layers) if i not in dense_only and (i + 1) % step == 0)


def _windows(config: Config, family: Family, layers: int) -> tuple[int | None, int]:
    """The sliding window and how many layers have it."""
    if family.windows == "chunks":
        chunk = config.get("attention_chunk_size")
        return (None, 0) if chunk is None else (_size(config, "attention_chunk_size"), layers - layers // 4)
    window = config.get("sliding_window")
    if family.windows == "none" or window is None or config.get("use_sliding_window") is False:
        return None, 0
    if family.windows == "max_window_layers" and not config.get("use_sliding_window"):
        return None, 0
    window = _size(config, "sliding_window")
    kinds = config.get("layer_types")
    if kinds:
        num = sum(1 for kind in kinds if kind in _WINDOW_KINDS)
    elif family.windows == "alternate":
        num = (layers + 1) // 2
    elif family.windows == "pattern":
        pattern = config.get("sliding_window_pattern")
        # EXAONE writes "LLLG": three with a window, one without.
        pattern = (
            len(pattern)
            if isinstance(pattern, str)
            else _size(config, "sliding_window_pattern", family.full_every)
        )
        num = sum(1 for i in range(layers) if (i + 1) % pattern)
    elif family.windows == "max_window_layers":
        num = max(0, layers - int(config.get("max_window_layers") or 0))
    else:
        num = layers
    return (window, num) if num else (None, 0)


def _weight_bytes(config: Config, quantization: object) -> tuple[float, float]:
    """Bytes of a weight, and of a number in the dtype that activations and KV have."""
    dtype = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch.")
    if dtype not in ("bfloat16", "float16", "float32"):
        raise ConfigError(
            f"model config: torch_dtype is {dtype!r}, allowed are bfloat16, float16, float32; check "
            "config.json."
        )
    native = 4.0 if dtype == "float32" else 2.0
    if not isinstance(quantization, Mapping):
        return native, native
    method = str(quantization.get("quant_method", ""))
    bits = quantization.get("bits") or quantization.get("num_bits")
    for group in (quantization.get("config_groups") or {}).values():
        bits = bits or (group.get("weights") or {}).get("num_bits")
    if bits is None:
        bits = {
            "fp8": 8,
            "fbgemm_fp8": 8,
            "modelopt": 8,
            "mxfp4": 4.25,
            "awq": 4,
            "gptq": 4,
            "bitsandbytes": 4,
        }.get(method)
    if bits is None:
        raise ConfigError(
            f"model config: quantization method {method!r} does not say its bits; add 'bits' to "
            "quantization_config."
        )
    return float(bits) / 8.0, native
