"""The command line reference in Markdown, made from the argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from sglang_blend.cli import make_parser
from sglang_blend.launch_offline import make_parser as make_job_parser


def command_line_reference() -> str:
    """Every command with its options."""
    sections = list(_section(make_job_parser()))
    for parser in subcommands(make_parser()):
        sections += _section(parser)
    return "\n".join(sections)


def subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Those that do something themselves: `fork build`, not `fork`."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for inner in group.choices.values():
            yield from subcommands(inner)


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## `{parser.prog}`\n"
    for text in (parser.description, parser.epilog):
        if text:
            yield f"{_escaped(text)}\n"
    options = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    if options:
        yield "| option | meaning |\n|---|---|"
        yield from (f"| {_names(parser, action)} | {_meaning(parser, action)} |" for action in options)
        yield ""


def _names(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    text = formatter._format_action_invocation(action)
    return f"`{text}`".replace("|", "\\|")


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    meaning = _escaped(parser._get_formatter()._expand_help(action)) if action.help else ""
    return f"{meaning} (required)" if action.required and action.option_strings else meaning


def _escaped(text: str) -> str:
    """So that Markdown shows it as it stands."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "*_|`" else char for char in text)
