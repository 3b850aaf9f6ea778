"""Configs as models publish them: the planner reads them, or says what it does not know."""

from typing import Any

import pytest

from sglang_blend.cost.hf_config import shape_from_config
from sglang_blend.errors import ConfigError


def config(
    model_type: Any, hidden: Any, inner: Any, layers: Any, heads: Any, kv_heads: Any, vocab: Any, **more: Any
) -> Any:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "torch_dtype": "bfloat16",
    }
    return {"model_type": model_type, **sizes, **more}


MLA = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
LLAMA4 = config(
    "llama4_text", 5120, 8192, 48, 40, 8, 202048, head_dim=128, intermediate_size_mlp=16384,
    num_experts_per_tok=1, attention_chunk_size=8192,
)  # fmt: skip
QWEN_VL = config("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064)
GEMMA3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "model_type": "gemma3_text",
    "num_hidden_layers": 34,
    "sliding_window": 1024,
}
PUBLISHED = [  # parameters and active ones of the language model, billions, embeddings included
    (config("gpt_oss", 2880, 2880, 24, 64, 8, 201088, head_dim=64, sliding_window=128, num_local_experts=32,
            num_experts_per_tok=4, attention_bias=True), 20.9, 4.2),
    (config("kimi_k2", 7168, 18432, 61, 64, 64, 163840, **MLA, n_routed_experts=384, n_shared_experts=1,
            num_experts_per_tok=8, moe_intermediate_size=2048, first_k_dense_replace=1), 1026, 32.9),
    (config("glm4_moe", 4096, 10944, 46, 96, 8, 151552, head_dim=128, n_routed_experts=128,
            n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=1408, first_k_dense_replace=1,
            attention_bias=True), 106.8, 12.9),
    (config("minimax_m2", 3072, 1536, 62, 48, 8, 200064, head_dim=128, num_local_experts=256,
            num_experts_per_tok=8, attn_type_list=[1] * 62), 228.7, 10.5),
    (LLAMA4 | {"num_local_experts": 16, "interleave_moe_layer_step": 1}, 107.8, 17.2),
    (LLAMA4 | {"num_local_experts": 128, "interleave_moe_layer_step": 2}, 400.7, 17.2),
    (QWEN_VL, 7.62, 7.62),
    ({"model_type": "qwen2_5_vl", "text_config": QWEN_VL | {"model_type": "qwen2_5_vl_text"}}, 7.62, 7.62),
    ({"model_type": "internvl_chat", "llm_config": QWEN_VL | {"model_type": "qwen2"}}, 7.62, 7.62),
    ({"model_type": "gemma3", "text_config": GEMMA3_4B}, 3.88, 3.88),
    ({"model_type": "mistral3",
      "text_config": config("mistral", 5120, 32768, 40, 32, 8, 131072, head_dim=128)}, 23.6, 23.6),
    (config("seed_oss", 5120, 27648, 64, 80, 8, 155136, head_dim=128, attention_bias=True), 36.2, 36.2),
    (config("olmo3", 5120, 27648, 64, 40, 8, 100278, sliding_window=4096), 32.2, 32.2),
    (config("phi3", 5120, 17920, 40, 40, 10, 100352), 14.7, 14.7),
    (config("cohere2", 12288, 36864, 64, 96, 8, 256000, sliding_window=4096), 111.1, 111.1),
]  # fmt: skip


@pytest.mark.parametrize(("published", "total", "active"), PUBLISHED)
def test_parameter_counts_are_those_of_the_model_cards(published: Any, total: Any, active: Any) -> None:
    shape = shape_from_config(published)
    assert shape.num_params / 1e9 == pytest.approx(total, rel=0.01)
    assert shape.active_params / 1e9 == pytest.approx(active, rel=0.16)


@pytest.mark.parametrize(
    ("published", "window", "num_layers"),
    [
        (config("olmo3", 5120, 27648, 64, 40, 8, 100278, sliding_window=4096), 4096, 48),
        (config("exaone4", 5120, 27392, 64, 40, 8, 102400, sliding_window=4096,
                sliding_window_pattern="LLLG"), 4096, 48),
        (LLAMA4, 8192, 36),
        (LLAMA4 | {"attention_chunk_size": None}, None, 0),
    ],
)  # fmt: skip
def test_three_of_four_layers_have_a_window(published: Any, window: Any, num_layers: int) -> None:
    shape = shape_from_config(published)
    assert (shape.window, shape.num_window_layers) == (window, num_layers)


@pytest.mark.parametrize(
    "odd",
    [
        {"num_experts": 8, "num_experts_per_tok": [1, 2], "moe_intermediate_size": 64},
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": ["group_0"]}},
        {"decoder_sparse_step": "two", "num_experts": 8, "num_experts_per_tok": 2},
        {"quantization_config": {"quant_method": "gptq", "bits": "four"}},
        {"intermediate_size": [64] * 16},
    ],
)
def test_a_config_with_odd_values_is_refused_in_a_sentence(odd: Any) -> None:
    """The job then plans without a cost model; any other exception would end it."""
    with pytest.raises(ConfigError, match="check config"):
        shape_from_config(QWEN_VL | odd)


def test_linear_attention_among_the_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="'attn_type_list'"):
        shape_from_config(config("minimax_m2", 3072, 1536, 62, 48, 8, 200064, attn_type_list=[0, 1] * 31))
