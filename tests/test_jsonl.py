"""Files of lines that grow up to a bound and never stop who writes them."""

import logging
from pathlib import Path

import pytest

from sglang_blend.jsonl import BoundedLines


def test_a_second_writer_goes_on_where_a_killed_one_tore_its_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a":1}\n[1,2' + b"3" * 10_000)
    lines = BoundedLines(path)
    lines.append([4])
    lines.close()
    assert path.read_bytes() == b'{"a":1}\n[4]\n'


def test_a_file_without_any_line_end_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"x" * 9000)
    lines = BoundedLines(path)
    lines.append([4])
    lines.close()
    assert path.read_bytes() == b"[4]\n"


def test_it_stops_at_its_bound_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"[0]\n" * 5)
    lines = BoundedLines(path, max_bytes=30)
    with caplog.at_level(logging.WARNING):
        for number in range(9):
            lines.append([number])
        lines.close()
    assert path.read_bytes() == b"[0]\n" * 5 + b"[0]\n[1]\n"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("place", ["absent/lines.jsonl", "folder", "/dev/full"])
def test_what_cannot_be_written_is_one_warning(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    lines = BoundedLines(tmp_path / place)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            lines.append([1])
            lines.flush()
        lines.close()
    assert len(caplog.records) == 1


def test_nothing_is_created_before_the_first_line(tmp_path: Path) -> None:
    BoundedLines(tmp_path / "lines.jsonl").close()
    assert not (tmp_path / "lines.jsonl").exists()
