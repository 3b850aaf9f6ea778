"""Packages that only some commands need: an extra of the project brings them, and one sentence names it.

require_extra("report", "--html")   # --html needs altair, which is not installed: `pip install ...`
"""

from __future__ import annotations

import importlib.util

from sglang_blend.errors import ConfigError

# Extra -> the modules that are imported, or run with `python -m`, where it is needed.
MODULES = {
    "engine": ("transformers", "accelerate", "gguf", "pip"),
    "fork": ("patch_ng", "pip", "wheel"),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "report": ("altair", "vl_convert"),
}


def require_extra(extra: str, what: str) -> None:
    """Stop where a package of the extra is not installed; imports none of them.

    Args:
        what: a command, a flag or a thing; begins the sentence.

    Raises:
        ConfigError: one is missing; names it and the command that brings it.
    """
    missing = [module for module in MODULES[extra] if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"{what} needs {' and '.join(missing)}, which {verb} not installed:"
            f" run `pip install 'sglang-blend[{extra}]'`."
        )
