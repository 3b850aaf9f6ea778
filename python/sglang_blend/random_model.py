"""Models with random weights and the demo model's tokenizer, in any known shape.

For measuring everything but the answers, which mean nothing. Load one with `--load-format dummy`: there are
no weights in its folder. `tiny` has two narrow layers and costs next to nothing: for scheduling, feeding and
memory. `tiny-windows` has two more, and a sliding window in every other one, whose KV SGLang keeps in a pool
of its own, as for gpt-oss.

    python -m sglang_blend.random_model tiny      # prints the folder
"""

from __future__ import annotations

import json
import shutil
import sys

from sglang_blend.cost.shape_registry import CONFIGS
from sglang_blend.demo_model import CHECKSUMS, demo_model_path
from sglang_blend.errors import ConfigError
from sglang_blend.machine import cache_dir

_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 32768,
}
# Of the models with such a pool the only one that runs without Triton kernels.
_WINDOWS = {
    "architectures": ["MellumForCausalLM"],
    "model_type": "mellum",
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 64,
    "rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0}
        for kind in ("sliding_attention", "full_attention")
    },
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
_MADE = {"tiny": _TINY, "tiny-windows": _TINY | _WINDOWS}


def random_model_path(name: str) -> str:
    """Folder of a model of this shape; made on first use from the demo model's config and tokenizer.

    Args:
        name: `tiny`, `tiny-windows`, or a Llama-like shape of `cost.shape_registry`.

    Raises:
        ConfigError: no such shape.
        DemoModelError: the demo model cannot be fetched.
    """
    allowed = [*_MADE, *(known for known, config in CONFIGS.items() if config.get("model_type") == "llama")]
    if name not in allowed:
        raise ConfigError(f"no random model {name!r}; allowed are {', '.join(allowed)}.")
    folder = cache_dir("models") / f"random-{name}"
    if (folder / "config.json").exists():  # written last
        return str(folder)
    demo = demo_model_path()
    folder.mkdir(parents=True, exist_ok=True)
    for file in demo.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and file.name not in ("config.json", CHECKSUMS):
            shutil.copy(file, folder / file.name)
    config = json.loads((demo / "config.json").read_text())
    if name in _MADE:
        config |= _MADE[name]
    else:
        config = {key: value for key, value in config.items() if key != "head_dim"} | CONFIGS[name]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return str(folder)


if __name__ == "__main__":
    print(random_model_path(*sys.argv[1:]))
