"""The list of flags that leave answers as they are, held against those of the pinned SGLang."""

import argparse

import pytest

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
