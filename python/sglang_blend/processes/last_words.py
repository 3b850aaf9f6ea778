"""What a dead process has said about its end, as part of a sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path

_READ_BYTES = 1 << 16
_NUM_LINES = 4
_LINE_LEN = 300
# The last line of a traceback, with or without the module's name.
_EXCEPTION = re.compile(r"^([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Interrupt|Exit)\b(: |$)")
# How SGLang's watchdog tells of a process that died; -9 is SIGKILL.
_EXIT_CODE = re.compile(r"crashed with exit code (?!-9\b)")


def last_words(log: Path, since: int = 0) -> str:
    """`: RuntimeError: ...; all of it is in LOG.` - the last exception in the log, else its last lines.

    SGLang goes on talking after the exception that ends it, so the end of the log alone would say little.

    Args:
        since: look only at what comes after so many bytes.
    """
    where, lines = f"all of it is in {log}.", _last_lines(log, since)
    exceptions = [number for number, line in enumerate(lines) if _EXCEPTION.match(line)]
    if exceptions:
        line, *rest = lines[exceptions[-1] :]
        if line.rstrip().endswith(":") and rest:  # its words begin on a line of their own
            line = f"{line.rstrip()} {rest[0].strip()}"
        return f": {line[:_LINE_LEN]}; {where}"
    if not lines:
        return f" without a word; {where}"
    words = "".join(f"\n    {line[:_LINE_LEN]}" for line in lines[-_NUM_LINES:])
    return f"; its last words:{words}\n{where}"


def tells_a_reason(log: Path, since: int = 0) -> bool:
    """Whether the log has an exception, or a process that died of anything but SIGKILL."""
    return any(_EXCEPTION.match(line) or _EXIT_CODE.search(line) for line in _last_lines(log, since))


def _last_lines(log: Path, since: int) -> list[str]:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(since, end - _READ_BYTES))
        return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
