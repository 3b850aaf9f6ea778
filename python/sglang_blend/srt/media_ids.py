"""Pictures, films and sounds in the token ids of a plan.

In a prompt each of them is one placeholder; SGLang's processors put its own tokens there when it runs. To a
planner all of them would read alike, and everything behind would seem to be shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput

# Above every vocabulary, within int32.
_LEAST_ID = 1 << 30


def with_media_ids(
    token_ids: list[int], adapted: GenerateReqInput | EmbeddingReqInput, special_tokens: Any
) -> list[int]:
    """The ids with one for each medium in place of its placeholder: equal for equal media, else another.

    Args:
        token_ids: of a prompt, placeholders included.
        adapted: its media, in the order of the placeholders.
        special_tokens: SGLang's `MultimodalSpecialTokens` of the model; None for a model of text.

    Returns:
        As many ids, which are for planning only. A placeholder without a medium stays.
    """
    media: dict[int, Iterator[object]] = {}
    for kind in ("image", "video", "audio"):
        placeholder = getattr(special_tokens, f"{kind}_token_id", None)
        found = getattr(adapted, f"{kind}_data", None)
        if isinstance(placeholder, int) and found:
            media[placeholder] = iter(found if isinstance(found, list) else [found])
    if not media:
        return token_ids
    return [_id_of(next(media[token], token)) if token in media else token for token in token_ids]


def _id_of(medium: object) -> int:
    if isinstance(medium, int):
        return medium
    digest = hashlib.blake2b(repr(medium).encode(), digest_size=4).digest()
    return _LEAST_ID | int.from_bytes(digest, "big") % _LEAST_ID
