"""What is quoted from the log of a dead engine."""

from pathlib import Path

import pytest

from sglang_blend.engine.nursery import last_words, phase, tells_a_reason


def said(tmp_path: Path, text: str, since: int = 0) -> str:
    log = tmp_path / "engine.log"
    log.write_text(text)
    return last_words(log, since).replace(str(log), "LOG")


def test_the_last_exception_is_quoted_whatever_was_said_after_it(tmp_path: Path) -> None:
    text = (
        "[12:00] Scheduler hit an exception: Traceback (most recent call last):\n"
        '  File "scheduler.py", line 1, in run\n'
        "    raise RuntimeError\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB\n\n"
        "[12:01] SIGQUIT received.\n[12:02] Pyspy failed\n"
    )
    expected = ": torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB; all of it is in LOG."
    assert said(tmp_path, text) == expected


def test_words_that_begin_below_the_name_of_their_exception_are_quoted(tmp_path: Path) -> None:
    text = "ImportError: \n[CRITICAL] Could not load any common_ops library!\nmore\n"
    expected = ": ImportError: [CRITICAL] Could not load any common_ops library!; all of it is in LOG."
    assert said(tmp_path, text) == expected


def test_without_an_exception_the_last_lines_are_quoted(tmp_path: Path) -> None:
    quoted = said(tmp_path, "".join(f"line {n}\n\n" for n in range(9)))
    lines = "\n    line 5\n    line 6\n    line 7\n    line 8\n"
    assert quoted == f"; its last words:{lines}all of it is in LOG."


def test_what_an_earlier_engine_has_said_is_not_quoted(tmp_path: Path) -> None:
    before = "ValueError: of the first engine\n"
    assert said(tmp_path, before + "second\n", len(before)).startswith("; its last words:\n    second")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ValueError: no\n", True),
        ("Subprocess scheduler_0 (pid=7) crashed with exit code -11. Triggering SIGQUIT\n", True),
        ("Subprocess scheduler_0 (pid=7) crashed with exit code -9. Triggering SIGQUIT\n", False),
        ("Loading safetensors\n", False),
        ("", False),
    ],
)
def test_a_kill_from_outside_leaves_no_reason_in_the_log(tmp_path: Path, text: str, expected: bool) -> None:
    log = tmp_path / "engine.log"
    log.write_text("RuntimeError: of an engine before\n" + text)
    assert tells_a_reason(log, len("RuntimeError: of an engine before\n")) == expected


def test_silence_is_told(tmp_path: Path) -> None:
    assert said(tmp_path, "") == " without a word; all of it is in LOG."


def test_a_long_log_is_quoted_in_short(tmp_path: Path) -> None:
    assert len(said(tmp_path, "x" * 10_000_000)) < 400


def test_what_a_start_is_at_is_the_last_progress_bar(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("W1201 06:28:44.999 No CUDA runtime is found\n")
    assert phase(log) == ""
    with log.open("a") as file:
        file.write("Loading shards:   0% Completed | 0/2 [00:00<?]\rLoading shards:  50% Completed | 1/2\n")
    assert phase(log) == "Loading shards 50%"
    since = log.stat().st_size
    assert phase(log, since) == ""
    with log.open("a") as file:
        file.write(
            "\rCapturing batches (bs=32 avail_mem=10.20 GB):  40%|####   | 4/10\na word of another kind\n"
        )
    assert phase(log, since) == "Capturing batches (bs=32 avail_mem=10.20 GB) 40%"
