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


def test_time_left_follows_the_expected_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the requests with half of the work is done: as much time again is left."""
    now = 100.0
    monkeypatch.setattr("sglang_blend.job.progress.time.monotonic", lambda: now)
    with Progress("planning", 10, terminal=False) as shown:
        now = 107.0
        shown.begin("running", total_work=8.0)
        now = 117.0
        shown.add(work=4.0)
        assert shown.left_s(now) == 10.0
        for _ in range(9):
            shown.add(work=4.0 / 9)
        assert shown.left_s(now) is None


def test_without_expectations_requests_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sglang_blend.job.progress.time.monotonic", lambda: now)
    with Progress("tokenizing", 4, terminal=False) as shown:
        assert shown.left_s(now) is None
        now = 2.0
        shown.add()
        assert shown.left_s(now) == 6.0
