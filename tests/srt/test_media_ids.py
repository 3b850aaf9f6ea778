"""What a plan sees of pictures in a prompt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

PICTURE, FILM = 90, 91


def ids(
    *pictures: str, films: tuple[str, ...] = (), prompt: tuple[int, ...] = (1, PICTURE, 2, PICTURE, 3)
) -> Any:
    """Of a prompt, as the plan gets them."""
    from sglang.srt.utils import ImageData

    from sglang_blend.srt.media_ids import with_media_ids

    tokens = SimpleNamespace(image_token_id=PICTURE, video_token_id=FILM, audio_token_id=None)
    adapted = SimpleNamespace(image_data=[ImageData(url=url) for url in pictures], video_data=list(films))
    return with_media_ids(list(prompt), adapted, tokens)


def test_prompts_share_what_comes_before_the_first_picture_that_differs() -> None:
    """Equal pictures are equal tokens."""
    one, other = ids("a.png", "b.png"), ids("a.png", "c.png")
    assert one == ids("a.png", "b.png")
    assert one[:3] == other[:3]
    assert one[3] != other[3]
    assert (one[0], one[2], one[4]) == (1, 2, 3)
    assert all(2**30 <= token < 2**31 for token in (one[1], one[3], other[3]))


def test_each_kind_has_placeholders_of_its_own() -> None:
    """And one that is left over stays, as does a prompt without media."""
    found = ids("a.png", films=("f.mp4",), prompt=(FILM, PICTURE, PICTURE))
    assert found[2] == PICTURE
    assert len(set(found)) == 3
    assert ids() == [1, PICTURE, 2, PICTURE, 3]
