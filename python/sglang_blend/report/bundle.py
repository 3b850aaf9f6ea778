"""The JavaScript that draws: Vega, Vega-Lite and Vega-Embed in one text, as vl-convert packs them.

Packing takes seconds, so the text is kept in the cache folder, under a name that changes with the version.
"""

from __future__ import annotations

import contextlib
import importlib.metadata

from sglang_blend.location import replace_small
from sglang_blend.machine import cache_dir

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


def javascript() -> str:
    """About 0.9 MB; defines `vegaEmbed`, and has nothing in it that would end a script element."""
    path = cache_dir("report") / f"vega-{importlib.metadata.version('vl-convert-python')}.js"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    import vl_convert

    text = vl_convert.javascript_bundle(_SNIPPET).replace("</script", "<\\/script").replace("<!--", "<\\!--")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_small(path, text.encode())
    return text
