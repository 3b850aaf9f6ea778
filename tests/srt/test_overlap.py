"""`--overlap` becomes SGLang's flags, or a sentence."""

from __future__ import annotations

import pytest

from sglang_blend.errors import ConfigError

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def test_the_mode_is_found_among_the_flags_and_the_others_stay() -> None:
    """Given with a space or an equals sign; without it nothing changes."""
    from sglang_blend.srt.overlap import split_overlap

    flags = ["--model-path", "m", "--chunked-prefill-size", "256"]
    assert split_overlap([*flags, "--overlap", "mixed"]) == ("mixed", flags)
    assert split_overlap(["--overlap=none", *flags]) == ("none", flags)
    assert split_overlap(flags) == ("auto", flags)


def test_mixed_is_sglangs_mixed_chunk() -> None:
    """Beside the user's other flags; `auto` on a machine without an accelerator is `none`."""
    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    model = ["--model-path", str(demo_model_path())]
    mixed = server_args([*model, "--overlap", "mixed", "--chunked-prefill-size", "256"])
    assert (mixed.enable_mixed_chunk, mixed.chunked_prefill_size) == (True, 256)
    assert not server_args(model).enable_mixed_chunk


def test_pdmux_comes_with_the_flags_that_sglang_wants_beside_it() -> None:
    """SGLang itself checks them."""
    from sglang.srt.server_args import prepare_server_args

    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.overlap import FLAGS_OF_MODE

    args = prepare_server_args(["--model-path", str(demo_model_path()), *FLAGS_OF_MODE["pdmux"]])
    args.check_server_args()
    assert args.enable_pdmux


@pytest.mark.parametrize(
    ("mode", "words"),
    [("some", "'some' is unknown; auto, none, mixed, pdmux"), ("pdmux", "and there is none")],
)
def test_what_cannot_be_done_is_refused(mode: str, words: str) -> None:
    """An unknown mode, or one that needs a GPU."""
    from sglang_blend.srt.flags import server_args

    with pytest.raises(ConfigError, match=words):
        server_args(["--model-path", "m", "--overlap", mode])


@pytest.mark.parametrize(("noted", "mode"), [("mixed", "mixed"), ("none", "none"), ("", "none")])
def test_auto_is_what_the_calibration_of_an_accelerator_says(
    noted: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is simulated at the start of an engine; beside the user's own choice nothing is chosen."""
    from types import SimpleNamespace

    from sglang_blend.srt import overlap

    record = SimpleNamespace(measured=SimpleNamespace(overlap=noted))
    flags = {"enable_mixed_chunk": False, "enable_pdmux": False, "speculative_algorithm": None, "pp_size": 1}
    monkeypatch.setattr(overlap, "calibrated", lambda device: record)
    assert overlap.chosen_mode(lambda: SimpleNamespace(**flags)) == "none", "no accelerator"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(overlap, "device_name", lambda: "NVIDIA H200")
    assert overlap.chosen_mode(lambda: SimpleNamespace(**flags)) == mode
    assert overlap.chosen_mode(lambda: SimpleNamespace(**flags | {"pp_size": 2})) == "none"
