"""The list of flags that leave answers as they are, held against those of the pinned SGLang."""

import argparse

import pytest

from sglang_blend.errors import ConfigError
from sglang_blend.job.engine_flags import SAME_ANSWERS, answer_flags

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

CHANGE_ANSWERS = {
    "--model-path",
    "--revision",
    "--tokenizer-path",
    "--load-format",
    "--dtype",
    "--quantization",
    "--kv-cache-dtype",
    "--json-model-override-args",
    "--lora-paths",
    "--chat-template",
    "--completion-template",
    "--default-chat-template-kwargs",
    "--reasoning-parser",
    "--tool-call-parser",
    "--sampling-defaults",
    "--preferred-sampling-params",
    "--random-seed",
    "--speculative-algorithm",
    "--allow-auto-truncate",
    "--grammar-backend",
    "--torchao-config",
    "--config",
}


@pytest.fixture(scope="module")
def options() -> set[str]:
    """SGLang's flags, and the one that is ours."""
    from sglang.srt.server_args import ServerArgs

    from sglang_blend.srt.overlap import FLAG

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    known = {option for action in parser._actions for option in action.option_strings if option[:2] == "--"}
    return known | {FLAG}


def test_flags_that_change_answers_are_compared(options: set[str]) -> None:
    assert options >= CHANGE_ANSWERS
    assert set(answer_flags(sorted(CHANGE_ANSWERS))) == CHANGE_ANSWERS


def test_every_entry_of_the_list_is_about_a_flag_that_exists(options: set[str]) -> None:
    assert [start for start in SAME_ANSWERS if not any(o[2:].startswith(start) for o in options)] == []


def test_a_model_that_is_not_there_is_named() -> None:
    """Not as a name that the model hub would refuse."""
    from sglang_blend.srt.flags import server_args

    with pytest.raises(ConfigError, match="--model-path /nope/model does not exist"):
        server_args(["--tp-size", "1", "--model-path", "/nope/model"])
