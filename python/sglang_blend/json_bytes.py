"""JSON of what models write: fast, and never refused for half a surrogate pair."""

from __future__ import annotations

import json
from typing import Any

import orjson


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8. What UTF-8 cannot carry (half a surrogate pair in a model's text) becomes `?`.

    Raises:
        TypeError: it is no JSON, or nested deeper than orjson writes (254 levels).
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as e:
        if "surrogates" not in str(e):
            raise
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
