"""Where things that can be made again are kept: the demo model, the stock and the forked wheel."""

import os
from pathlib import Path


def cache_dir(name: str) -> Path:
    """`$SGLANG_BLEND_CACHE/name`, `$XDG_CACHE_HOME/sglang-blend/name` or `~/.cache/sglang-blend/name`.

    Read when called, never at import; the folder is not created.
    """
    own = os.environ.get("SGLANG_BLEND_CACHE")
    if own:
        return Path(own) / name
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sglang-blend" / name
