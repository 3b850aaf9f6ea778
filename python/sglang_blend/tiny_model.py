"""A model of two narrow layers with random weights and the demo model's tokenizer.

For measuring everything but the model: scheduling, feeding, memory of the job. Its answers mean nothing. Load
it with `--load-format dummy`, there are no weights in the folder.

    python -m sglang_blend.tiny_model      # prints the folder
"""

from __future__ import annotations

import json
import shutil

from sglang_blend.cache_dir import cache_dir
from sglang_blend.demo_model import demo_model_path

_NAME = "tiny-random-llama"
_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 32768,
}


def tiny_model_path() -> str:
    """Folder of the tiny model; made on first use from the demo model's config and tokenizer.

    Raises:
        DemoModelError: the demo model cannot be fetched.
    """
    demo, folder = demo_model_path(), cache_dir("models") / _NAME
    folder.mkdir(parents=True, exist_ok=True)
    for file in demo.iterdir():
        if file.suffix in (".json", ".jinja", ".txt") and file.name not in ("config.json", "checksums.json"):
            shutil.copy(file, folder / file.name)
    config = json.loads((demo / "config.json").read_text()) | _SHAPE
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return str(folder)


if __name__ == "__main__":
    print(tiny_model_path())
