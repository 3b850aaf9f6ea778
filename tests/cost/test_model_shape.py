"""Shapes read from configs have the published parameter counts and KV sizes; what cannot be modelled is
refused.
"""

from pathlib import Path
from typing import Any

import orjson
import pytest

from sglang_blend.cost.hf_config import shape_from_config, shape_from_path
from sglang_blend.cost.shape_registry import CONFIGS, model_shape
from sglang_blend.errors import ConfigError

PUBLISHED = {  # total and active parameters, billions, as the model cards give them
    "llama-3-8b": (8.03, 8.03),
    "llama-3.1-8b": (8.03, 8.03),
    "llama-3.1-70b": (70.6, 70.6),
    "llama-2-7b": (6.74, 6.74),
    "deepseek-67b": (67.4, 67.4),
    "qwen2.5-7b": (7.62, 7.62),
    "qwen2.5-72b": (72.7, 72.7),
    "smollm2-135m": (0.1345, 0.1345),
    "mistral-7b": (7.24, 7.24),
    "gemma-2-9b": (9.24, 9.24),
    "mixtral-8x7b": (46.7, 12.9),
    "qwen3-30b-a3b": (30.5, 3.3),
    "deepseek-v2-lite": (15.7, 2.7),
    "deepseek-v3": (671.0, 37.6),
}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_parameter_counts_are_the_published_ones(name: Any) -> None:
    """Within the rounding of the model cards (1% of the total, 2% of the active)."""
    total, active = PUBLISHED[name]
    shape = model_shape(name)
    assert shape.num_params / 1e9 == pytest.approx(total, rel=0.005)
    assert shape.active_params / 1e9 == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3-8b", 131072),  # GQA: 32 layers x 2 x 8 heads x 128 x 2 bytes
        ("llama-2-7b", 524288),  # MHA
        ("qwen2.5-7b", 57344),
        ("deepseek-v3", 61 * (512 + 64) * 2),  # MLA: one latent and the rope part
    ],
)
def test_kv_bytes_of_a_token(name: str, bytes_per_token: Any) -> None:
    """KV width follows the kind of attention."""
    assert model_shape(name).kv_bytes_per_token() == bytes_per_token


def test_kv_is_copied_where_ranks_outnumber_kv_heads() -> None:
    """GQA with 8 heads on 16 ranks, MLA and MQA on any number of ranks hold copies."""
    assert model_shape("llama-3-8b").kv_bytes_per_token(16) == 2 * 131072
    assert model_shape("llama-3-8b").kv_bytes_per_token(8) == 131072
    assert (
        model_shape("deepseek-v3").kv_bytes_per_token(8)
        == 8 * model_shape("deepseek-v3").kv_bytes_per_token()
    )
    mqa = shape_from_config({**CONFIGS["llama-3-8b"], "model_type": "gemma", "num_key_value_heads": 1})
    assert mqa.kv_bytes_per_token(2) == 2 * mqa.kv_bytes_per_token()


def test_mla_is_told_from_mqa() -> None:
    """Both have one KV head; only one caches a latent."""
    mqa = shape_from_config({**CONFIGS["llama-3-8b"], "num_key_value_heads": 1})
    assert model_shape("deepseek-v2-lite").is_mla
    assert not mqa.is_mla


@pytest.mark.parametrize(
    ("config", "window", "layers"),
    [
        (CONFIGS["mistral-7b"], 4096, 32),
        (CONFIGS["gemma-2-9b"], 4096, 21),
        (
            {
                **CONFIGS["gemma-2-9b"],
                "model_type": "gemma3_text",
                "sliding_window": 1024,
                "num_hidden_layers": 34,
            },
            1024,
            29,
        ),
        (
            {**CONFIGS["gemma-2-9b"], "layer_types": ["sliding_attention"] * 10 + ["full_attention"] * 32},
            4096,
            10,
        ),
        ({**CONFIGS["qwen2.5-7b"], "sliding_window": 4096, "use_sliding_window": False}, None, 0),
        (
            {
                **CONFIGS["qwen2.5-7b"],
                "sliding_window": 4096,
                "use_sliding_window": True,
                "max_window_layers": 20,
            },
            4096,
            8,
        ),
        ({**CONFIGS["mistral-7b"], "sliding_window": None}, None, 0),
        (CONFIGS["llama-3-8b"], None, 0),
    ],
)
def test_windows_follow_the_layer_pattern(config: Any, window: Any, layers: int) -> None:
    """Mistral in all layers, Gemma 2 in every other, Gemma 3 in five of six, Qwen from a layer on if
    switched on.
    """
    shape = shape_from_config(config)
    assert (shape.window, shape.num_window_layers) == (window, layers)


def test_tied_models_have_one_matrix_at_both_ends() -> None:
    """It is the output layer; otherwise the embedding is a second one, and neither is part of a layer."""
    tied, untied = model_shape("smollm2-135m"), model_shape("llama-3-8b")
    assert (tied.head_params, tied.embedding_params) == (49152 * 576, 0)
    assert untied.head_params == untied.embedding_params == 128256 * 4096
    assert untied.layer_params == untied.num_params - 2 * untied.head_params
    assert tied.layer_params == tied.num_params - tied.head_params


def test_moe_steps_read_the_experts_they_visit() -> None:
    """One token reads its own two experts of eight, a large batch reads them all."""
    shape = model_shape("mixtral")
    assert shape.active_weight_bytes(1) == pytest.approx(2 * shape.active_params)
    assert shape.active_weight_bytes(1000) == pytest.approx(2 * shape.num_params)
    assert shape.active_weight_bytes(1) < shape.active_weight_bytes(2) < shape.active_weight_bytes(4)


@pytest.mark.parametrize(
    ("quantization", "bytes_per_param"),
    [
        ({"quant_method": "fp8"}, 1.0),
        ({"quant_method": "awq", "bits": 4}, 0.5),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8}}}}, 1.0),
        (None, 2.0),
    ],
)
def test_weight_bytes_follow_the_quantization(quantization: Any, bytes_per_param: float) -> None:
    """KV keeps the dtype of the activations."""
    shape = shape_from_config({**CONFIGS["llama-3-8b"], "quantization_config": quantization})
    assert shape.weight_bytes_per_param == bytes_per_param
    assert shape.kv_bytes == 2.0
    assert shape.with_kv_dtype("fp8").kv_bytes_per_token() == shape.kv_bytes_per_token() / 2


HYBRIDS = [
    {"model_type": "mamba"},
    {"model_type": "jamba", "attn_layer_period": 8},
    {**CONFIGS["qwen3-30b-a3b"], "model_type": "qwen3_next", "linear_conv_kernel_dim": 4},
    {**CONFIGS["llama-3-8b"], "layer_types": ["linear_attention", "full_attention"] * 16},
    {"model_type": "falcon_h1", "mamba_d_state": 128},
    {"model_type": "gemma3", "text_config": {**CONFIGS["gemma-2-9b"], "ssm_cfg": {}}},
]


@pytest.mark.parametrize("config", HYBRIDS)
def test_hybrid_models_are_refused_with_a_way_out(config: Any) -> None:
    """The sentence says what was seen and what to do instead."""
    with pytest.raises(ConfigError, match=r"is a hybrid .*--order dfs"):
        shape_from_config(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert"}, r"'bert' is not among the \d+ that are modelled \(llama"),
        ({}, "None is not among"),
        ({**CONFIGS["llama-3-8b"], "hidden_size": -1}, "hidden_size is -1"),
        ({**CONFIGS["llama-3-8b"], "num_hidden_layers": "32"}, "num_hidden_layers is '32'"),
        ({**CONFIGS["llama-3-8b"], "num_key_value_heads": 7}, "32 query heads do not divide into 7"),
        ({**CONFIGS["llama-3-8b"], "torch_dtype": "int3"}, "torch_dtype is 'int3'"),
        (
            {**CONFIGS["llama-3-8b"], "quantization_config": {"quant_method": "new"}},
            "'new' does not say its bits",
        ),
    ],
)
def test_configs_that_make_no_model_are_refused(config: Any, words: str) -> None:
    """Unknown types and impossible sizes, each in a sentence."""
    with pytest.raises(ConfigError, match=words):
        shape_from_config(config)


def test_a_model_folder_is_read_by_path(tmp_path: Path) -> None:
    """A folder with config.json gives the same shape as its dict; what is missing or broken is refused."""
    (tmp_path / "config.json").write_bytes(orjson.dumps(CONFIGS["qwen2.5-7b"]))
    assert model_shape(str(tmp_path)).num_params == model_shape("qwen2.5-7b").num_params
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        shape_from_path(tmp_path)
    with pytest.raises(ConfigError, match="neither a folder nor a known shape"):
        model_shape("llama-9")
    with pytest.raises(ConfigError, match="KV dtype 'int2'"):
        model_shape("llama-3-8b").with_kv_dtype("int2")
