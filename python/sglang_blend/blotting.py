"""Keys and passwords that stand in a command line, blotted out in everything that is written down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

BLOT = "***"
# Of a flag, or of a field of JSON; `eos_token` and the like are words of a model.
_SECRET_NAME = re.compile(
    r"(^|[-_.])(keys?|passwords?|passwd|passphrase|secrets?|credentials?|authorization)$"
    r"|(^|(?<!bos|eos|pad|unk|sep|cls)[-_.])token$"
    r"|(api|access|private|secret|session|auth|refresh)(key|token)$",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s\"']+@")
_QUERY = re.compile(r"(https?://[^\s\"'?]+)\?[^\s\"']*")


def without_secrets(argv: Sequence[str]) -> list[str]:
    """Flags as they were given, without what is secret in them."""
    shown: list[str] = []
    hide = False
    for word in argv:
        name, equals, value = word.partition("=")
        is_flag = name.startswith("--")
        if hide and not is_flag:
            shown.append(BLOT)
        elif is_flag and equals:
            shown.append(f"{name}={BLOT if is_secret(name) else blotted(value)}")
        else:
            shown.append(word if is_flag else blotted(word))
        hide = is_flag and not equals and is_secret(name)
    return shown


def is_secret(name: str) -> bool:
    """Whether the value of a flag or a field by this name is one."""
    return bool(_SECRET_NAME.search(name))


def blotted(value: str) -> str:
    """The value of a flag without the secrets inside: fields of JSON, addresses."""
    if value.lstrip().startswith(("{", "[")):
        try:
            return orjson.dumps(_without(orjson.loads(value))).decode()
        except orjson.JSONDecodeError:
            pass
    return without_signatures(value)


def without_signatures(text: str) -> str:
    """Text in which no address says who asks, or is signed: `https://user:pw@host/x?sig=1` is `https://host/x`."""
    return _QUERY.sub(r"\1", _USER_INFO.sub("", text))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: BLOT if is_secret(str(name)) else _without(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner) for inner in value]
    return blotted(value) if isinstance(value, str) else value
