"""`--overlap` becomes SGLang's flags, or a sentence."""

import pytest

from sglang_blend.errors import ConfigError
from sglang_blend.srt.flags import server_args
from sglang_blend.srt.overlap import split_overlap


def test_mixed_is_sglangs_mixed_chunk_and_the_users_other_flags_stay():
    """Given with a space or an equals sign; without it nothing changes."""
    flags = ("--model-path", "m", "--chunked-prefill-size", "256")
    assert split_overlap([*flags, "--overlap", "mixed"]) == ("mixed", list(flags))
    assert split_overlap(["--overlap=none", *flags]) == ("none", list(flags))
    assert split_overlap(flags) == ("auto", list(flags))


def test_flags_reach_the_engine(tmp_path):
    """As SGLang parses them; `auto` on a machine without an accelerator is `none`."""
    from sglang_blend.demo_model import demo_model_path

    model = ("--model-path", str(demo_model_path()))
    mixed = server_args([*model, "--overlap", "mixed", "--chunked-prefill-size", "256"])
    assert (mixed.enable_mixed_chunk, mixed.chunked_prefill_size) == (True, 256)
    assert not server_args(model).enable_mixed_chunk


@pytest.mark.parametrize(
    ("mode", "words"),
    [("some", "'some' is unknown; auto, none, mixed, pdmux"), ("pdmux", "and there is none")],
)
def test_what_cannot_be_done_is_refused(mode, words):
    """An unknown mode, or one that needs a GPU."""
    with pytest.raises(ConfigError, match=words):
        server_args(["--model-path", "m", "--overlap", mode])
