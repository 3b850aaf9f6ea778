"""Flags that cannot work are refused in a sentence before anything starts."""

from __future__ import annotations

import pytest

from sglang_blend.errors import ConfigError

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--page-size", "16"), "--page-size 16: without an accelerator only 1 is served"),
        (("--tp-size", "2"), "--tp-size 2: without an accelerator only 1 is served"),
        (("--pp-size", "2"), "--pp-size 2: without an accelerator only 1 is served"),
        (
            ("--speculative-algorithm", "NGRAM"),
            "--speculative-algorithm NGRAM: without an accelerator it is not",
        ),
        (("--enable-hierarchical-cache",), "--enable-hierarchical-cache: without an accelerator it is not"),
        (("--enable-torch-compile",), "--enable-torch-compile: without an accelerator it is not served"),
        (("--enable-priority-scheduling",), "--enable-priority-scheduling .* --schedule-policy fcfs"),
        (("--skip-tokenizer",), "--skip-tokenizer-init: prompts and answers of a job are texts"),
        (("--max-queued-requests", "9"), "--max-queued-requests 9: .* --window"),
        (("--schedule-conservativeness", "-1"), "refuses these flags: schedule_conservativeness must be"),
        (("--served-model-name", "a:b"), r"refuses these flags: served_model_name cannot contain a colon"),
    ],
)
def test_a_flag_that_cannot_work_is_refused(flags: tuple[str, ...], words: str) -> None:
    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    with pytest.raises(ConfigError, match=words):
        server_args(["--model-path", str(demo_model_path()), *flags])


def test_priorities_go_with_a_policy_that_knows_them() -> None:
    from sglang_blend.demo_model import demo_model_path
    from sglang_blend.srt.flags import server_args

    flags = ["--enable-priority-scheduling", "--schedule-policy", "fcfs"]
    assert server_args(["--model-path", str(demo_model_path()), *flags]).schedule_policy == "fcfs"
