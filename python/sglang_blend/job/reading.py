"""How the input is read: options, defaults and help."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from sglang_blend.errors import ConfigError

INPUT_FORMATS = ("auto", "openai", "jsonl", "parquet")
PROMPT_COLUMNS = ("messages", "prompt", "text")
ID_COLUMNS = ("custom_id", "id")
FILE_HELP = (
    "batch file (OpenAI Batch JSON Lines) or table of prompts (JSON Lines, Parquet); a path or an address"
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Format and columns of the input.

    Attributes:
        input_format: `openai` (batch lines), `jsonl` or `parquet` (tables of prompts), or `auto`.
        prompt_column: texts, or lists of messages; None: the first of `PROMPT_COLUMNS` that is there.
        id_column: what becomes the custom_id; None: the first of `ID_COLUMNS`, else `row-<number>`.
        prompt_as: a text is sent as it stands (`completion`), or as a user's message (`chat`).
        params: parameters of rows that have none of their own.
    """

    input_format: str = "auto"
    prompt_column: str | None = None
    id_column: str | None = None
    prompt_as: str = "completion"
    params: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        """Register the options."""
        add = parser.add_argument_group("tables of prompts (Parquet, JSON Lines of a dataset)").add_argument
        add(
            "--input-format",
            choices=INPUT_FORMATS,
            default="auto",
            help="openai: batch lines; jsonl, parquet: tables (default: by a look at the file)",
        )
        add(
            "--prompt-column",
            metavar="NAME",
            help=f"texts, or lists of messages (default: {', '.join(PROMPT_COLUMNS)}, the first there is)",
        )
        add(
            "--id-column",
            metavar="NAME",
            help=f"what becomes the custom_id (default: {', '.join(ID_COLUMNS)}, else row-NUMBER)",
        )
        add(
            "--prompt-as",
            choices=("completion", "chat"),
            default="completion",
            help="a text is sent as it stands, or as a user's message (default: %(default)s)",
        )
        add(
            "--params",
            metavar="JSON",
            default="{}",
            help="parameters of rows without their own, such as '{\"max_tokens\": 256}'",
        )

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Reading:
        """Build from parsed options.

        Raises:
            ConfigError: --params is no JSON object.
        """
        values = {f.name: getattr(args, f.name) for f in fields(cls)}
        try:
            params = orjson.loads(values.pop("params"))
        except orjson.JSONDecodeError as e:
            raise ConfigError(f"--params {args.params!r} is not JSON ({e}).") from e
        if not isinstance(params, dict):
            raise ConfigError(f"--params {args.params!r} must be a JSON object.")
        return cls(params=params, **values)

    def for_tables(self) -> list[str]:
        """What was asked for that only a table has a use for, as it is given on a command line."""
        given = (
            ("--prompt-column", self.prompt_column),
            ("--id-column", self.id_column),
            ("--prompt-as", self.prompt_as if self.prompt_as != Reading.prompt_as else None),
            ("--params", orjson.dumps(self.params).decode() if self.params else None),
        )
        return [f"{option} {value}" for option, value in given if value is not None]

    def to_json(self) -> dict[str, str]:
        """The options as text, for comparing two runs."""
        return {f"--{name.replace('_', '-')}": str(value) for name, value in vars(self).items() if value}
