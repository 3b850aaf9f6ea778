"""Fills the command line reference from the argument parsers while the site is built."""

from __future__ import annotations

from typing import Any

MARK = "<!-- command line reference -->"


def on_page_markdown(markdown: str, **context: Any) -> str:
    """MkDocs calls this for every page."""
    if MARK not in markdown:
        return markdown
    from sglang_blend.cli.reference import command_line_reference

    return markdown.replace(MARK, command_line_reference())
