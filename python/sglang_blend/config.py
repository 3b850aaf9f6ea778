"""Config of the main job: defaults and help text live here and nowhere else."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sglang_blend.errors import ConfigError

DEFAULT_WINDOW = 2048
JOB_ORDERS = ("dfs", "fcfs", "random")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Files and feeding of one offline job. `resolve` fills the paths that were left open."""

    file: Path
    output: Path | None = None
    error_file: Path | None = None
    summary_file: Path | None = None
    overwrite: bool = False
    order: str = "dfs"
    window: int = DEFAULT_WINDOW

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        """Register the options."""
        add = parser.add_argument
        add(
            "--file",
            type=Path,
            required=True,
            help="batch file: OpenAI Batch JSON Lines, .jsonl or .jsonl.gz",
        )
        add(
            "--output",
            type=Path,
            help="answers, one line a request (default: FILE.output.jsonl beside the input)",
        )
        add("--error-file", type=Path, help="refused and failed requests (default: beside the output)")
        add("--summary-file", type=Path, help="the summary as JSON (default: beside the output)")
        add("--overwrite", action="store_true", help="replace result files that exist")
        add("--order", choices=JOB_ORDERS, default="dfs", help="order of the requests (default: %(default)s)")
        add(
            "--window",
            type=int,
            default=DEFAULT_WINDOW,
            help="requests handed to the engine at a time (default: %(default)s)",
        )

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> JobConfig:
        """Build from parsed options.

        Raises:
            ConfigError: the window is not positive.
        """
        config = cls(**{field.name: getattr(args, field.name) for field in fields(cls)})
        if config.window < 1:
            raise ConfigError(
                f"--window {config.window}: at least one request must be in flight; 2048 is usual."
            )
        return config

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class JobFiles:
    """Where a job reads and writes, all paths given."""

    file: Path
    output: Path
    error_file: Path
    summary_file: Path


def resolve_files(config: JobConfig) -> JobFiles:
    """Fill the open paths: batch.jsonl -> batch.output.jsonl -> batch.errors.jsonl, batch.summary.json.

    Raises:
        ConfigError: two of them are one file.
    """
    stem = config.file.name.removesuffix(".gz").removesuffix(".jsonl")
    output = config.output or config.file.with_name(f"{stem}.output.jsonl")
    beside = output.name.removesuffix(".jsonl").removesuffix(".output")
    files = JobFiles(
        file=config.file,
        output=output,
        error_file=config.error_file or output.with_name(f"{beside}.errors.jsonl"),
        summary_file=config.summary_file or output.with_name(f"{beside}.summary.json"),
    )
    name_of: dict[Path, str] = {files.file.resolve(): "the batch file"}
    for option, path in (
        ("--output", files.output),
        ("--error-file", files.error_file),
        ("--summary-file", files.summary_file),
    ):
        taken = name_of.setdefault(path.resolve(), option)
        if taken != option:
            raise ConfigError(f"{option} {path} is {taken}: they must be two files.")
    return files
