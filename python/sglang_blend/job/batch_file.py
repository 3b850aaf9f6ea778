"""The batch file: found, opened, and cut into lines that are checked one by one.

A bad line costs that line: it becomes a `Rejection` and reading goes on. Lines end at \\n only (U+2028 and
friends may stand raw in JSON strings); numbers count blank lines. Of a key that stands twice in one object
the last counts. A file that is no JSON Lines at all is refused as a whole; tables of prompts (`tables`)
are turned into batch lines.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import orjson

from sglang_blend.config import Reading
from sglang_blend.errors import BlendError, InputError
from sglang_blend.job.body_check import URLS, check_body, without_nulls
from sglang_blend.job.fields import cut, kind, short
from sglang_blend.job.lines import MAX_LINE_BYTES, UTF8_BOM, bounded_lines, first_line, is_too_long, read_line
from sglang_blend.job.source import Unchanged, discard, open_plain, room_in, temporary_file
from sglang_blend.job.tables import batch_lines, format_of
from sglang_blend.location import Location
from sglang_blend.request import BatchLine, Rejection

MAX_CUSTOM_ID_LEN = 512
# Names and values from the line stand in error messages; a line may be megabytes of them.
MAX_MESSAGE_CHARS, MAX_PARAM_CHARS = 500, 100
ENVELOPE = ("custom_id", "method", "url", "body")
_LONGEST_CUSTOM_ID = 12 * MAX_CUSTOM_ID_LEN + 100  # two escapes a character, and what stands before
_STARTS_WITH_CUSTOM_ID = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")')


class BatchFile:
    """The input opened for reading: batch lines, whatever format it has.

    Use as a context manager. `scan` reads and checks all lines once; `item` and `line` read one
    again at its offset. A
    table of prompts is written as batch lines into a file without a name first.
    """

    def __init__(self, place: Location, work_dir: Path | None = None, reading: Reading | None = None) -> None:
        """Open `place`.

        Args:
            work_dir: for files without a name; None: the system's directory for temporary files.

        Raises:
            InputError: it is missing, a directory, empty, unreadable, not UTF-8 or not JSON Lines.
        """
        self.path = place
        reading = reading or Reading()
        work_dir = work_dir or Path(tempfile.gettempdir())
        self._file = open_plain(place, work_dir)
        try:
            found = format_of(self._file, str(place), reading)
            if found != "parquet":
                _refuse_other_formats(place, self._file)
            if found != "openai":
                self._file = _as_batch_lines(place, self._file, found, reading, work_dir)
        except BlendError:
            self._file.close()
            raise
        self._unchanged = Unchanged(self._file)

    def __enter__(self) -> BatchFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def num_bytes(self) -> int:
        """Size of the plain content."""
        return self._file.seek(0, 2)

    def sha256(self) -> str:
        """Digest of the plain content, in hexadecimal."""
        return self._unchanged.digest()

    def check_unchanged(self) -> None:
        """See that nobody has written over it since its digest was taken.

        Raises:
            InputError: somebody has.
        """
        if not self._unchanged:
            raise InputError(
                f"{self.path} changed while the job was reading it: the results so far are those of its "
                "old content. Put that back and give the same command again, or name another --output."
            )

    def scan(self) -> Iterator[BatchLine | Rejection]:
        """Every non-blank line in file order, on its own: accepted or refused."""
        self._file.seek(0)
        offset = 0
        for number, (raw, num_bytes) in enumerate(bounded_lines(self._file), start=1):
            if raw.strip() or is_too_long(raw):
                yield parse_line(raw, number, offset)
            offset += num_bytes

    def refuse_other_texts(self) -> None:
        """Of a file where no line has a custom_id: refuse what cannot have been meant as a batch file.

        Raises:
            InputError: no line is a JSON object, or they are rows of a table.
        """
        reasons = (item for item in self.scan() if isinstance(item, Rejection))
        first = next(reasons, None)
        if first is None:
            return  # a table without rows
        if not first.is_readable and not any(item.is_readable for item in reasons):
            reason = f"line {first.line_number}: {first.message.rstrip('.')}"
            raise InputError(
                f"--file {self.path} has no line that is a JSON object ({reason}): it must be a batch "
                "file, or a table of prompts as JSON Lines or Parquet."
            )
        self._file.seek(first.offset)
        row = orjson.loads(read_line(self._file).removeprefix(UTF8_BOM)) if first.is_readable else {}
        columns = [name for name in row if name not in ENVELOPE]
        if columns and "custom_id" not in row:
            raise InputError(
                f"--file {self.path} has no custom_id on any line, as a batch file has: for a table of "
                f"prompts name one of {cut(', '.join(columns), MAX_MESSAGE_CHARS)} with --prompt-column."
            )

    def item(self, offset: int, number: int) -> BatchLine | Rejection:
        """Read the line at `offset` again.

        Raises:
            InputError: the file has changed.
        """
        self._file.seek(offset)
        raw = read_line(self._file)
        self.check_unchanged()
        return parse_line(raw, number, offset)

    def line(self, offset: int, number: int) -> BatchLine:
        """Read the line at `offset` again, which was accepted: it is not checked a second time.

        Raises:
            InputError: there is no such line any more.
        """
        self._file.seek(offset)
        try:
            line = orjson.loads(_without_bom(read_line(self._file), number))
            url, body = line["url"], line["body"]
            return BatchLine(number, offset, line["custom_id"], url, without_nulls(body, url))
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as e:
            raise InputError(
                f"{self.path} changed while the job was reading it (line {number}): run the job again."
            ) from e


def parse_line(raw: bytes, number: int, offset: int = 0) -> BatchLine | Rejection:
    """Check one line: encoding, JSON, envelope (custom_id, method, url, body), then the body."""
    raw = _without_bom(raw, number)
    custom_id: str | None = None

    def refuse(code: str, message: str, param: str | None = None) -> Rejection:
        return Rejection(
            code=code,
            message=cut(message, MAX_MESSAGE_CHARS),
            param=param and cut(param, MAX_PARAM_CHARS),
            line_number=number,
            offset=offset,
            custom_id=custom_id,
        )

    if is_too_long(raw):
        custom_id = _first_key(raw)
        return refuse("line_too_long", f"longer than {MAX_LINE_BYTES:,} bytes.")
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        custom_id = _first_key(raw)
        return refuse("invalid_json_line", f"not valid JSON: {e}.")
    if not isinstance(line, dict):
        return refuse("invalid_json_line", f"must be a JSON object, not {kind(line)}.")

    found = line.get("custom_id")
    if found is None:
        return refuse("missing_required_parameter", "custom_id is missing; give each line one.", "custom_id")
    if not isinstance(found, str):
        return refuse("invalid_type", f"custom_id must be a string, not {kind(found)}.", "custom_id")
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
        return refuse("invalid_method", f"method is {short(method)}; only 'POST' is served.", "method")
    if url not in URLS:
        return refuse("invalid_url", f"url is {short(url)}; served are {', '.join(URLS)}.", "url")
    if not isinstance(body, dict):
        return refuse("invalid_type", f"body must be a JSON object, not {kind(body)}.", "body")
    for name in line:
        if name not in ENVELOPE:
            return refuse(
                "unknown_parameter", f"{short(name)} is unknown; a line has {', '.join(ENVELOPE)}.", name
            )
    body = without_nulls(body, url)
    problem = check_body(url, body)
    if problem:
        return refuse(problem.code, f"{problem.at or 'body'} {problem.message}.", problem.at or "body")
    return BatchLine(number, offset, custom_id, url, body)


def _without_bom(raw: bytes, number: int) -> bytes:
    return raw.removeprefix(UTF8_BOM) if number == 1 else raw


def _first_key(raw: bytes) -> str | None:
    """custom_id of a line that is no JSON, where it stands first and is whole itself."""
    found = _STARTS_WITH_CUSTOM_ID.match(
        raw[:_LONGEST_CUSTOM_ID]
    )  # the expression keeps state of each character
    try:
        value = orjson.loads(found.group(1)) if found else None
    except orjson.JSONDecodeError:
        return None
    return value if value and len(value) <= MAX_CUSTOM_ID_LEN else None


def _as_batch_lines(
    place: Location, table: IO[bytes], table_format: str, reading: Reading, work_dir: Path
) -> IO[bytes]:
    lines = temporary_file(work_dir)
    try:
        with table, room_in(work_dir):
            lines.writelines(batch_lines(table, str(place), table_format, reading))
            lines.flush()
    except BaseException:
        discard(lines)
        raise
    lines.seek(0)
    return lines


def _refuse_other_formats(path: Location, file: IO[bytes]) -> None:
    """Refuse what has no single readable line: nothing at all, UTF-16/32, one JSON document."""
    head, first = file.read(4), first_line(file)
    if not first:
        raise InputError(f"--file {path} is empty: it needs one JSON object a line.")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise InputError(f"--file {path} is UTF-16 or UTF-32: save it as UTF-8 and run again.")
    first = first.removeprefix(UTF8_BOM).strip()
    if first in (b"[", b"{") or first.startswith((b"[{", b"[ {")):
        what = "a JSON array" if first.startswith(b"[") else "JSON spread over many lines"
        raise InputError(f"--file {path} is {what}, not JSON Lines: put each request on one line of its own.")
