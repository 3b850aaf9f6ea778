"""`stop_regex` of a line: found as `re` finds it, within a time, in SGLang's own loop."""

from __future__ import annotations

import re
import time

import pytest

from sglang_blend.srt.stop_regex import SEARCH_S, BoundedSearch, bound

HANGS = r"^(\w|\w\w)+$"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("ab+", "xabbb"), ("^x", "ax"), ("[0-9]{3}", "a 123"), ("(?i)STOP", "please stop"), ("a|b$", "cb")],
)
def test_it_finds_what_re_finds(pattern: str, text: str) -> None:
    ours, theirs = BoundedSearch().search(pattern, text), re.search(pattern, text)
    assert (ours and ours.span()) == (theirs and theirs.span())


def test_a_pattern_that_backtracks_is_given_up_and_then_refused() -> None:
    search = BoundedSearch().search
    start = time.monotonic()
    assert search(HANGS, "a" * 200 + "!") is None
    assert time.monotonic() - start < 20 * SEARCH_S
    with pytest.raises(re.error, match="takes too long"):
        search(HANGS, "a")
    assert search("a+", "a" * 200), "others go on"


def test_a_pattern_that_is_slow_each_time_is_refused_after_a_while() -> None:
    bounded = BoundedSearch(search_s=10.0, pattern_s=0.05)
    for _ in range(10_000):
        try:
            bounded.search(HANGS, "x" * 22 + "!")
        except re.error:
            break
    else:
        raise AssertionError("it was never refused")


def test_a_pattern_that_is_none_says_so_as_re_does() -> None:
    with pytest.raises(re.error):
        BoundedSearch().search("(", "a")


@pytest.mark.filterwarnings("ignore")
def test_sglang_ends_such_a_request_and_no_other() -> None:
    """With SGLang's own request, up to the reason it gives."""
    from sglang.srt.managers import schedule_batch
    from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    before = schedule_batch.re
    try:
        bound()

        class Letters:
            def decode(self, ids: list[int]) -> str:
                return "a" * len(ids) + "!"

        params = SamplingParams(max_new_tokens=500, stop_regex=HANGS)
        params.normalize(Letters())
        request = Req("r", "prompt", [1, 2, 3], params)
        request.tokenizer = Letters()
        start = time.monotonic()
        for _ in range(100):
            request.output_ids.append(1)
            request._check_str_based_finish(1)
            if request.finished_reason is not None:
                break
        assert isinstance(request.finished_reason, FINISH_ABORT)
        assert request.finished_reason.status_code == 400
        assert time.monotonic() - start < 5
    finally:
        schedule_batch.re = before
