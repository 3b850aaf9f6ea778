"""Lines of a file, in bounded memory: of a line that is too long only the beginning is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

MAX_LINE_BYTES = 64 << 20
UTF8_BOM = b"\xef\xbb\xbf"


def bounded_lines(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """(line with its \\n, bytes it takes in the file) from where the file stands; see `is_too_long`."""
    while raw := read_line(file):
        yield raw, len(raw) + (_skip_rest(file) if is_too_long(raw) else 0)


def read_line(file: IO[bytes]) -> bytes:
    """The next line, or the beginning of one that is too long; nothing at the end."""
    return file.readline(MAX_LINE_BYTES + 1)


def is_too_long(raw: bytes) -> bool:
    """Whether a line is only a beginning."""
    return len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n")


def first_line(file: IO[bytes]) -> bytes:
    """The first line that is not blank; empty where there is none. The file stands at its beginning after."""
    file.seek(0)
    first = next((raw for raw, _ in bounded_lines(file) if raw.strip()), b"")
    file.seek(0)
    return first


def _skip_rest(file: IO[bytes]) -> int:
    num_bytes = 0
    while piece := file.readline(1 << 20):
        num_bytes += len(piece)
        if piece.endswith(b"\n"):
            break
    return num_bytes
