"""The commands that README and docs show: indented or fenced blocks that begin with a command word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_WORDS = r"(?:\.venv/bin/\S+|python|pip|sglang-blend|scripts/\S+|cat|export|curl|ray|docker|sbatch|kubectl)"
_FIRST = re.compile(rf"^(?:[A-Z_]+=\S+ )*{_WORDS}(?: |$)")
_HEREDOC = re.compile(r"<<'?(\w+)'?")


class Command(NamedTuple):
    """One command, with the lines of its here-document where it has one."""

    page: str
    text: str


def shown_commands() -> list[Command]:
    """All of them, in the order of the pages; the same text may come more than once."""
    return [
        Command(page.name, text) for page in PAGES for block in _blocks(page) for text in _commands(block)
    ]


def _blocks(page: Path) -> Iterator[list[str]]:
    """Code blocks without their indentation."""
    block: list[str] = []
    fenced = False
    for line in [*page.read_text().splitlines(), ""]:
        if line.lstrip().startswith("```"):
            fenced = not fenced
            yield block
            block = []
        elif fenced:
            block.append(line)
        elif line.startswith("    "):
            block.append(line[4:])
        elif block:
            yield block
            block = []


def _commands(block: list[str]) -> Iterator[str]:
    lines = iter(block)
    for line in lines:
        if not _FIRST.match(line):
            continue
        text = re.sub(r"\s+#.*$", "", line)
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + next(lines).strip()
        if here := _HEREDOC.search(text):
            text += "\n" + "\n".join(_until(lines, here[1]))
        yield text.replace(".venv/bin/", "")


def _until(lines: Iterator[str], end: str) -> Iterator[str]:
    for line in lines:
        yield line
        if line == end:
            return
