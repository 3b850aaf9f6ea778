"""The malformed batch files of the shared folder, and what their manifest wants of each line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

from shared_folder import shared_file


class Malformed(NamedTuple):
    """One file: its manifest entry, and where it lies for a test."""

    manifest: dict[str, Any]
    path: Path

    @property
    def expected(self) -> list[dict[str, Any]]:
        """One entry for each line that must have a record."""
        return [line for line in self.manifest["lines"] if line["expect"] != "skip"]

    @property
    def status(self) -> str:
        """Whether the file as a whole is processed, rejected, or either (`any`)."""
        status: str = self.manifest["file_expect"]["status"]
        return status


def malformed_files(directory: Path) -> list[Malformed]:
    """All files, unpacked under `directory` where the packing is not part of the test."""
    files = []
    for text in shared_file("malformed/manifest.jsonl").read_text().splitlines():
        manifest = json.loads(text)
        path = shared_file(f"malformed/{manifest['file']}")
        if plain := manifest.get("gunzip_first"):
            unpacked = directory / plain
            unpacked.write_bytes(gzip.decompress(path.read_bytes()))
            path = unpacked
        files.append(Malformed(manifest, path))
    return files


def complaint(
    expected: dict[str, Any], code: str | None, param: str | None, custom_id: str | None
) -> str | None:
    """What is wrong with how a line ended, or None.

    Args:
        expected: the manifest's entry for the line.
        code: of its error, None for an answer.
    """
    where = f"line {expected['line']}"
    if code is None:
        if expected["expect"] == "error":
            return f"{where}: answered, but must be refused"
    elif expected["expect"] == "ok":
        return f"{where}: refused with {code}, but must be answered"
    elif code not in expected["code"]:
        return f"{where}: refused with {code}, wanted one of {expected['code']}"
    elif "param" in expected and code not in ("invalid_json_line", "context_length_exceeded"):
        field = (param or "").partition(".")[0]
        if field != expected["param"]:
            return f"{where}: the error names {param!r}, wanted {expected['param']!r}"
    if custom_id != expected.get("custom_id") and (code is None or "custom_id" in expected):
        return f"{where}: custom_id is {custom_id!r}, wanted {expected.get('custom_id')!r}"
    return None
