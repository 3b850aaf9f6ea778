"""The batch file: found, opened, and cut into lines whose envelope is checked.

A bad line costs that line: it becomes a `Rejection` and reading goes on. The body is checked later, by
SGLang's own serving classes. Lines end at \\n only (U+2028 and friends may stand raw in JSON strings);
numbers count blank lines. A file that is no JSON Lines at all is refused as a whole.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from sglang_blend.errors import InputError
from sglang_blend.job.records import Rejection

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
MAX_CUSTOM_ID_LEN = 512
_UTF8_BOM = b"\xef\xbb\xbf"


class BatchLine(NamedTuple):
    """An accepted line: its envelope is right, its body not yet looked at."""

    line_number: int
    offset: int
    custom_id: str
    url: str
    body: dict[str, Any]


class BatchFile:
    """A batch file opened for reading; a .gz is unpacked to a temporary file first.

    Use as a context manager. `scan` reads all lines once; `line` reads one again at its offset.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            InputError: it is missing, a directory, empty, unreadable, not UTF-8 or not JSON Lines.
        """
        self.path = path
        self._file = _open(path)
        try:
            _refuse_other_formats(path, self._file)
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> BatchFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def num_bytes(self) -> int:
        """Size of the plain content."""
        return self._file.seek(0, 2)

    def scan(self) -> Iterator[BatchLine | Rejection]:
        """Every non-blank line in file order, accepted or refused; duplicates are refused, the first wins."""
        first_line_of: dict[str, int] = {}
        offset = 0
        self._file.seek(0)
        for number, raw in enumerate(self._file, start=1):
            if raw.strip():
                parsed = parse_line(raw, number, offset)
                if isinstance(parsed, BatchLine):
                    first = first_line_of.setdefault(parsed.custom_id, number)
                    if first != number:
                        parsed = Rejection(
                            code="duplicate_custom_id",
                            message=f"custom_id {parsed.custom_id!r} was used on line {first} already.",
                            param="custom_id",
                            line_number=number,
                            custom_id=parsed.custom_id,
                        )
                yield parsed
            offset += len(raw)

    def line(self, offset: int, number: int) -> BatchLine:
        """Read the accepted line at `offset` again."""
        self._file.seek(offset)
        parsed = parse_line(self._file.readline(), number, offset)
        if not isinstance(parsed, BatchLine):
            raise InputError(
                f"{self.path} changed while the job was reading it (line {number}): run the job again."
            )
        return parsed


def parse_line(raw: bytes, number: int, offset: int = 0) -> BatchLine | Rejection:
    """Check one line's encoding, JSON and envelope (custom_id, method, url, body)."""
    raw = raw.removeprefix(_UTF8_BOM) if number == 1 else raw
    custom_id: str | None = None

    def refuse(code: str, message: str, param: str | None = None) -> Rejection:
        return Rejection(code=code, message=message, param=param, line_number=number, custom_id=custom_id)

    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        return refuse("invalid_json_line", f"not valid JSON: {e}.")
    if not isinstance(line, dict):
        return refuse("invalid_json_line", f"must be a JSON object, not {_kind(line)}.")

    found = line.get("custom_id")
    if found is None:
        return refuse("missing_required_parameter", "custom_id is missing; give each line one.", "custom_id")
    if not isinstance(found, str):
        return refuse("invalid_type", f"custom_id must be a string, not {_kind(found)}.", "custom_id")
    custom_id = found
    if not 0 < len(found) <= MAX_CUSTOM_ID_LEN:
        return refuse(
            "invalid_value",
            f"custom_id has {len(found)} characters; allowed are 1 to {MAX_CUSTOM_ID_LEN}.",
            "custom_id",
        )

    for name in ("method", "url", "body"):
        if line.get(name) is None:
            return refuse("missing_required_parameter", f"{name} is missing.", name)
    method, url, body = line["method"], line["url"], line["body"]
    if method != "POST":
        return refuse("invalid_method", f"method is {method!r}; only 'POST' is served.", "method")
    if url not in URLS:
        return refuse("invalid_url", f"url is {url!r}; served are {', '.join(URLS)}.", "url")
    if not isinstance(body, dict):
        return refuse("invalid_type", f"body must be a JSON object, not {_kind(body)}.", "body")
    return BatchLine(number, offset, custom_id, url, body)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise InputError(
            f"--file {path} is a directory: name one batch file (JSON Lines, .jsonl or .jsonl.gz)."
        )
    if not path.exists():
        raise InputError(
            f"--file {path} does not exist: name a batch file (JSON Lines, .jsonl or .jsonl.gz)."
        )
    try:
        file = path.open("rb")
    except OSError as e:
        raise InputError(f"--file {path} cannot be read ({e.strerror}): check its permissions.") from e
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if packed:
        return _unpack(path, file)
    if path.suffix == ".gz":
        file.close()
        raise InputError(f"--file {path} is named .gz but is not gzip: rename it, or pack it again.")
    return file


def _unpack(path: Path, packed: IO[bytes]) -> IO[bytes]:
    plain = tempfile.TemporaryFile(prefix="sglang-blend-")  # noqa: SIM115 - closed by BatchFile
    try:
        with packed, gzip.open(packed) as source:
            shutil.copyfileobj(source, plain, 1 << 20)
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        plain.close()
        raise InputError(f"--file {path} is a damaged gzip file ({e}): fetch or pack it again.") from e
    plain.seek(0)
    return plain


def _refuse_other_formats(path: Path, file: IO[bytes]) -> None:
    """Refuse what has no single readable line: nothing at all, UTF-16/32, one JSON document."""
    head = file.read(1 << 16)
    file.seek(0)
    if not head.strip() and not any(line.strip() for line in file):
        raise InputError(f"--file {path} is empty: it needs one JSON object a line.")
    file.seek(0)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:4]:
        raise InputError(f"--file {path} is UTF-16 or UTF-32: save it as UTF-8 and run again.")
    first = next(line for line in file if line.strip()).removeprefix(_UTF8_BOM).strip()
    file.seek(0)
    if first in (b"[", b"{") or first.startswith((b"[{", b"[ {")):
        what = "a JSON array" if first.startswith(b"[") else "JSON spread over many lines"
        raise InputError(f"--file {path} is {what}, not JSON Lines: put each request on one line of its own.")
