"""Config of the main job and of reading its input: defaults and help text live here and nowhere else."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import orjson

from sglang_blend.core import order_names
from sglang_blend.errors import ConfigError
from sglang_blend.location import Location, identity, in_words, location, plain_name

# SLURM and spot machines send SIGTERM, and SIGKILL 30 s later.
DEFAULT_DRAIN_TIMEOUT_S = 20.0
DEFAULT_HANG_TIMEOUT_S = 600.0
DEFAULT_START_TIMEOUT_S = 1800.0
DEFAULT_MAX_RESTARTS = 10
MAX_PREPARE_WORKERS = 32
# The window that nobody named: twice what runs at once, so that the scheduler always has a choice.
WINDOW_FACTOR, LEAST_WINDOW, MOST_WINDOW = 2, 256, 4096
JOB_ORDERS = order_names()
# How the engine runs compute beside KV reads (`srt.overlap`).
OVERLAP_MODES = ("auto", "none", "mixed", "pdmux")
DEFAULT_FSYNC_INTERVAL_S = 1.0
OUTPUT_FORMATS = ("jsonl", "parquet")
TABLE_SUFFIXES = (".jsonl", ".parquet")
INPUT_FORMATS = ("auto", "openai", "jsonl", "parquet")
PROMPT_COLUMNS = ("messages", "prompt", "text")
ID_COLUMNS = ("custom_id", "id")
FILE_HELP = (
    "batch file (OpenAI Batch JSON Lines) or table of prompts (JSON Lines, Parquet); a path or an address"
)
# Whoever names such an output does not expect JSON Lines in it.
_OTHER_TABLES = (".csv", ".tsv", ".xlsx", ".arrow", ".feather")


def default_window(max_running_requests: int) -> int:
    """Requests to hand to an engine that runs so many at once, where nobody says."""
    return min(max(WINDOW_FACTOR * max_running_requests, LEAST_WINDOW), MOST_WINDOW)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the input is read: format and columns of the input.

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


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Files and feeding of one offline job. `resolve_files` fills the paths that were left open."""

    file: Location
    output: Location | None = None
    error_file: Location | None = None
    summary_file: Location | None = None
    overwrite: bool = False
    resume: bool = True
    keep_errors: bool = False
    retry_errors: bool = False
    fsync_interval: float = DEFAULT_FSYNC_INTERVAL_S
    work_dir: Path | None = None
    output_format: str | None = None
    sort_output: bool = False
    sharded_output: bool = False
    reading: Reading = field(default_factory=Reading)
    order: str = "auto"
    window: int | None = None
    prepare_workers: int | None = None
    drain_timeout: float = DEFAULT_DRAIN_TIMEOUT_S
    hang_timeout: float = DEFAULT_HANG_TIMEOUT_S
    start_timeout: float = DEFAULT_START_TIMEOUT_S
    max_restarts: int = DEFAULT_MAX_RESTARTS
    report: bool = True

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        """Register the options."""
        add = parser.add_argument
        add(
            "--file",
            type=location,
            required=True,
            help=FILE_HELP,
        )
        add(
            "--output",
            type=location,
            help="answers, one line a request (default: FILE.output.jsonl beside the input)",
        )
        add("--error-file", type=location, help="refused and failed requests (default: beside the output)")
        add("--summary-file", type=location, help="the summary as JSON (default: beside the output)")
        add("--overwrite", action="store_true", help="replace result files that exist")
        add(
            "--resume",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="go on where an earlier run of the same job stopped (default: %(default)s)",
        )
        errors = parser.add_mutually_exclusive_group()
        errors.add_argument(
            "--keep-errors", action="store_true", help="on resume, leave every failed line as it is"
        )
        errors.add_argument(
            "--retry-errors",
            action="store_true",
            help="on resume, try every failed line again (default: those that could end differently)",
        )
        add(
            "--fsync-interval",
            type=float,
            metavar="SECONDS",
            default=DEFAULT_FSYNC_INTERVAL_S,
            help="how long a result may wait until it is safe on disk (default: %(default)s)",
        )
        add(
            "--output-format",
            choices=OUTPUT_FORMATS,
            help="of the output, not of the error file (default: by its suffix, else jsonl)",
        )
        add("--sort-output", action="store_true", help="bring the results into input order at the end")
        add(
            "--sharded-output",
            action="store_true",
            help="with --replicas: each replica writes its answers itself, in parts at OUTPUT.parts/, which "
            "must be a place that all of them and this machine see",
        )
        add(
            "--work-dir",
            type=Path,
            help="where token ids and unpacked input lie while the job runs (default: beside the output)",
        )
        add(
            "--order",
            choices=JOB_ORDERS,
            default="auto",
            help="order of the requests (default: %(default)s, by predicted makespan)",
        )
        add(
            "--window",
            type=int,
            help="requests handed to the engine at a time (default: twice what it runs at once, "
            f"{LEAST_WINDOW} to {MOST_WINDOW})",
        )
        add(
            "--prepare-workers",
            type=int,
            metavar="N",
            help="processes that validate and tokenize (default: one for each core, 32 at most)",
        )
        add(
            "--drain-timeout",
            type=float,
            metavar="SECONDS",
            default=DEFAULT_DRAIN_TIMEOUT_S,
            help="after Ctrl-C or SIGTERM, wait that long for requests in flight (default: %(default)s)",
        )
        add(
            "--hang-timeout",
            type=float,
            metavar="SECONDS",
            default=DEFAULT_HANG_TIMEOUT_S,
            help="restart an engine that makes no step for that long (default: %(default)s)",
        )
        add(
            "--start-timeout",
            type=float,
            metavar="SECONDS",
            default=DEFAULT_START_TIMEOUT_S,
            help="give up a start in which the engine says nothing for that long (default: %(default)s)",
        )
        add(
            "--max-restarts",
            type=int,
            metavar="N",
            default=DEFAULT_MAX_RESTARTS,
            help="restarts of a dead engine without one finished request between them (default: %(default)s)",
        )
        add(
            "--report",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="make an HTML report beside the output at the end (default: %(default)s)",
        )
        Reading.add_cli_args(parser)

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> JobConfig:
        """Build from parsed options.

        Raises:
            ConfigError: a number is out of range.
        """
        given = {f.name: getattr(args, f.name) for f in fields(cls) if f.name != "reading"}
        config = cls(reading=Reading.from_cli_args(args), **given)
        if config.window is not None and config.window < 1:
            raise ConfigError(
                f"--window {config.window}: at least one request must be in flight; 2048 is usual."
            )
        if config.prepare_workers is not None and config.prepare_workers < 1:
            raise ConfigError(
                f"--prepare-workers {config.prepare_workers}: at least one process must prepare."
            )
        if not config.drain_timeout >= 0:
            raise ConfigError(
                f"--drain-timeout {config.drain_timeout}: give seconds, 0 or more; 20 is usual."
            )
        if not config.hang_timeout > 0:
            raise ConfigError(f"--hang-timeout {config.hang_timeout}: give seconds above 0; 600 is usual.")
        if not config.start_timeout > 0:
            raise ConfigError(f"--start-timeout {config.start_timeout}: give seconds above 0; 1800 is usual.")
        if config.max_restarts < 0:
            raise ConfigError(f"--max-restarts {config.max_restarts}: give 0 or more; 10 is usual.")
        if config.output is not None and config.output.suffix.lower() in _OTHER_TABLES:
            raise ConfigError(
                f"--output {config.output}: answers are written as JSON Lines or as Parquet; name a .jsonl "
                "or .parquet file."
            )
        if config.sharded_output and (config.sort_output or config.output_format == "parquet"):
            what = "--sort-output" if config.sort_output else "--output-format parquet"
            raise ConfigError(
                f"--sharded-output and {what}: parts are neither sorted nor Parquet; leave one out."
            )
        if not 0 < config.fsync_interval <= 3600:
            raise ConfigError(
                f"--fsync-interval {config.fsync_interval}: allowed is more than 0, up to 3600 seconds."
            )
        return config

    def window_for(self, max_running_requests: int) -> int:
        """Requests to hand to an engine that runs so many at once."""
        return self.window or default_window(max_running_requests)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values = {k: in_words(v) if isinstance(v, Location) else v for k, v in vars(self).items()}
        return {**values, "reading": vars(self.reading)}


@dataclass(frozen=True, kw_only=True)
class JobFiles:
    """Where a job reads and writes, all places given. `identity_file` says whose results they are.

    `steps_file` and `runs_file` are what the report is made of: what the schedulers did, and what each run of
    the job planned and measured. They lie on a local disk.
    """

    file: Location
    output: Location
    error_file: Location
    summary_file: Location
    identity_file: Location
    engine_log: Path
    steps_file: Path
    runs_file: Path
    report_file: Path
    work_dir: Path
    output_format: str


def resolve_files(config: JobConfig) -> JobFiles:
    """Fill the open places: batch.jsonl -> batch.output.jsonl -> batch.errors.jsonl, batch.summary.json,
    batch.job.json, batch.engine.log, batch.steps.jsonl, batch.runs.jsonl, batch.report.html.

    Results of an input that is not on a local disk lie in the current directory.

    Raises:
        ConfigError: two of them are one file.
    """
    beside_input = config.file if isinstance(config.file, Path) else Path(config.file.name)
    suffix = f".{config.output_format or 'jsonl'}"
    output = config.output or beside_input.with_name(f"{_stem(config.file)}.output{suffix}")
    stem = _stem(output).removesuffix(".output")
    local = output.parent if isinstance(output, Path) else Path()
    files = JobFiles(
        file=config.file,
        output=output,
        error_file=config.error_file or output.with_name(f"{stem}.errors.jsonl"),
        summary_file=config.summary_file or output.with_name(f"{stem}.summary.json"),
        identity_file=output.with_name(f"{stem}.job.json"),
        output_format=config.output_format or ("parquet" if output.suffix == ".parquet" else "jsonl"),
        engine_log=local / f"{stem}.engine.log",
        steps_file=local / f"{stem}.steps.jsonl",
        runs_file=local / f"{stem}.runs.jsonl",
        report_file=local / f"{stem}.report.html",
        work_dir=config.work_dir or local,
    )
    name_of: dict[str, str] = {identity(files.file): "the batch file"}
    for option, place in (
        ("--output", files.output),
        ("--error-file", files.error_file),
        ("--summary-file", files.summary_file),
        ("the engine's log", files.engine_log),
        ("the job file", files.identity_file),
        ("the file of steps", files.steps_file),
        ("the file of runs", files.runs_file),
        ("the report", files.report_file),
    ):
        taken = name_of.setdefault(identity(place), option)
        if taken != option:
            raise ConfigError(f"{option} {place} is {taken}: they must be two files.")
    return files


def _stem(place: Location) -> str:
    """The name without the suffixes of its format and packing."""
    name = plain_name(place.name)
    return next((name.removesuffix(suffix) for suffix in TABLE_SUFFIXES if name.endswith(suffix)), name)
