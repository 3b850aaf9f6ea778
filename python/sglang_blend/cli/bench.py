"""`sglang-blend bench`: the same file under several schedule policies, on the real engine.

sglang-blend bench --file batch.jsonl --policies fcfs,lpm,dual-scan --shuffles 3 --max-total-tokens 4000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from sglang_blend.bench.comparison import compare_answers, table
from sglang_blend.bench.matrix import Contender, WorkerConfig
from sglang_blend.config import FILE_HELP, Reading
from sglang_blend.errors import ConfigError, EngineError
from sglang_blend.job.engine_flags import refuse_flags
from sglang_blend.location import location

_DEFAULT_POLICIES = "fcfs,lpm,dfs-weight,fcfs@dfs,dual-scan,stationary"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="run one file under several schedule policies and compare",
        description="Run one batch file under several schedule policies with the same flags, each run with an"
        " empty cache. Every SGLang server flag is passed through.",
        epilog="example: sglang-blend bench --file batch.jsonl --policies fcfs,lpm,dual-scan --shuffles 3",
    )
    add = parser.add_argument
    add("--file", type=location, required=True, help=FILE_HELP)
    add(
        "--policies",
        default=_DEFAULT_POLICIES,
        help="schedule policies, comma-separated; POLICY@ORDER feeds one in another order than the file's"
        " (default: %(default)s)",
    )
    add("--shuffles", type=int, default=1, help="orders of the lines to run (default: %(default)s)")
    add(
        "--first-shuffle",
        type=int,
        default=0,
        metavar="K",
        help="go on with this one, from 0 (default: %(default)s)",
    )
    add(
        "--minutes",
        type=float,
        help="leave out shuffles that would not end within this time, going by the longest of their policy"
        " so far (default: run all)",
    )
    add("--limit", type=int, help="take this many lines after the first shuffle (default: all)")
    add(
        "--warm-up",
        type=int,
        default=0,
        metavar="N",
        help="requests to run before anything is measured (default: %(default)s)",
    )
    add("--window", type=int, help="requests with the engine at a time (default: as for a job)")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    Reading.add_cli_args(parser)
    parser.set_defaults(run=run, takes_engine_flags=True)


def run(args: argparse.Namespace) -> int:
    """Run all contenders, one engine per policy; returns the exit code.

    Raises:
        BlendError: a value that is not allowed, or an engine that failed.
    """
    for name in ("shuffles", "limit", "window"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: 1 or more is allowed.")
    if args.warm_up < 0:
        raise ConfigError(f"--warm-up {args.warm_up}: 0 or more is allowed.")
    if not 0 <= args.first_shuffle < args.shuffles:
        raise ConfigError(
            f"--first-shuffle {args.first_shuffle}: 0 to {args.shuffles - 1} is allowed, with --shuffles"
            f" {args.shuffles}."
        )
    if args.minutes is not None and not args.minutes > 0:
        raise ConfigError(f"--minutes {args.minutes}: more than 0 is allowed.")
    refuse_flags(args.engine_argv)
    reading = Reading.from_cli_args(args)
    contenders = [Contender.parse(text) for text in args.policies.split(",")]
    report: dict[str, Any] = {"tree_minimum_prompt_tokens": 0, "runs": []}
    try:
        _measure(contenders, args, reading, report)
    except (EngineError, KeyboardInterrupt):
        if report["runs"]:
            _show(report, args)  # what was measured before the end is not lost
        raise
    _show(report, args)
    return 0


def _measure(
    contenders: list[Contender], args: argparse.Namespace, reading: Reading, report: dict[str, Any]
) -> None:
    """Add the runs of each policy to the report as they are done."""
    started = time.monotonic()
    for policy, group in groupby(contenders, key=lambda contender: contender.policy):
        minutes = args.minutes and args.minutes - (time.monotonic() - started) / 60
        if minutes is not None and minutes <= 0:
            print(f"left out: {policy}, --minutes {args.minutes} are over.", file=sys.stderr)
            continue
        config = WorkerConfig(
            file=str(args.file),
            contenders=[contender.name for contender in group],
            num_shuffles=args.shuffles,
            first_shuffle=args.first_shuffle,
            minutes=minutes,
            limit=args.limit,
            window=args.window,
            num_warm_up=args.warm_up,
            engine_argv=args.engine_argv,
            reading=vars(reading),
        )
        part = _run_worker(config)
        minimum = part["tree_minimum_prompt_tokens"]  # 0 where no time was left for a run
        report["tree_minimum_prompt_tokens"] = minimum or report["tree_minimum_prompt_tokens"]
        report["runs"] += part["runs"]


def _show(report: dict[str, Any], args: argparse.Namespace) -> None:
    if report["runs"]:
        compare_answers(report["runs"])
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() if args.json else table(report))


def _run_worker(config: WorkerConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sglang-blend-bench-") as folder:
        given, found = Path(folder) / "config.json", Path(folder) / "report.json"
        given.write_bytes(orjson.dumps(config.to_json()))
        command = [sys.executable, "-m", "sglang_blend.bench.worker", str(given), str(found)]
        done = subprocess.run(command, stdout=sys.stderr, env=dict(os.environ), check=False)
        if done.returncode or not found.exists():
            raise EngineError(
                f"the engine for {', '.join(config.contenders)} failed (exit code {done.returncode}); "
                "its words are above."
            )
        report: dict[str, Any] = orjson.loads(found.read_bytes())
        return report
