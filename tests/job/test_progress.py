"""Progress is a bar on a terminal and plain lines elsewhere; both say rates and what is left."""

import logging

import pytest

from sglang_blend.job import progress
from sglang_blend.job.progress import Progress


def test_a_terminal_gets_a_bar_with_token_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("running", 4, terminal=True) as shown:
        for _ in range(4):
            shown.add(100)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "running: 100%" in last
    assert "4/4" in last
    assert "tok/s" in last


def test_elsewhere_it_is_plain_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO), Progress("running", 2, terminal=False) as shown:
        shown.add(100)
        shown.add(100)
    first, *_, last = [record.getMessage() for record in caplog.records]
    assert first.startswith("running: 1 of 2 requests")
    assert "tok/s" in first
    assert "left" in first
    assert last.startswith("running: 2 of 2 requests")
    assert "left" not in last


def test_no_requests_no_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("running", 0, terminal=False):
        pass
    assert not caplog.records
