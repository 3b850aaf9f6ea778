"""sglang-blend: a whole batch file, or list of prompts, as one planned job on SGLang.

`Engine` and `Runtime` take the place of SGLang's. All other public names of SGLang, those of its frontend
language, are found here too, so that `import sglang as sgl` becomes `import sglang_blend as sgl` and nothing
else changes.
"""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

_OURS = {"Engine": "sglang_blend.srt.engine", "Runtime": "sglang_blend.srt.runtime"}
# `sglang.__all__` of 0.5.17 but for what is above; tests/srt/test_drop_in.py compares.
_SGLANG = (
    "Anthropic", "Crusoe", "LiteLLM", "OpenAI", "RuntimeEndpoint", "ServerArgs", "VertexAI", "assistant",
    "assistant_begin", "assistant_end", "flush_cache", "function", "gen", "gen_int", "gen_string",
    "get_server_info", "global_config", "greedy_token_selection", "image", "select", "separate_reasoning",
    "set_default_backend", "system", "system_begin", "system_end", "token_length_normalized",
    "unconditional_likelihood_normalized", "user", "user_begin", "user_end", "video",
)  # fmt: skip

__all__ = ["Engine", "Runtime", "__version__", *_SGLANG]


def __getattr__(name: str) -> Any:
    """Import on first use: SGLang takes long, and planning does not need it."""
    if name in _OURS:
        from sglang_blend import fork

        fork.require()
        return getattr(importlib.import_module(_OURS[name]), name)
    if name in _SGLANG:
        return getattr(importlib.import_module("sglang"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
