"""`sglang-blend SUBCOMMAND`: one file a subcommand, with `add_parser(subparsers)` and `run(args) -> int`.

run, plan, simulate, bench, calibrate, report, fork     the subcommands
batch_prompts    the prompts of a file, without the engine
predictions      makespans of one job's schedules; plan_output: what `plan` says
simulate_job     what `simulate` runs; simulate_replicas: on many engines
reference        docs/cli.md, from the parsers
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sglang_blend import __version__
from sglang_blend.cli import bench, calibrate, fork, plan, report, run, simulate
from sglang_blend.console import EXIT_BROKEN_PIPE, complain, drop_stdout, log_to_stderr, open_streams
from sglang_blend.errors import BlendError

# What a shell reports of a program that SIGINT ended.
EXIT_INTERRUPTED = 130
SUBCOMMANDS = (run, plan, simulate, bench, calibrate, report, fork)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, dispatch, turn a `BlendError` into its sentence and exit code; Ctrl-C and `| head` are quiet."""
    open_streams()
    log_to_stderr()
    parser = make_parser()
    args, engine_argv = parser.parse_known_args(argv)
    if engine_argv and not getattr(args, "takes_engine_flags", False):
        parser.error(f"unrecognized arguments: {' '.join(engine_argv)}")
    args.engine_argv = engine_argv
    try:
        exit_code = int(args.run(args))
        sys.stdout.flush()
        return exit_code
    except BlendError as error:
        complain(f"sglang-blend: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        drop_stdout()
        return EXIT_BROKEN_PIPE


def make_parser() -> argparse.ArgumentParser:
    """The command line of `sglang-blend`."""
    parser = argparse.ArgumentParser(
        prog="sglang-blend", description="Offline batch inference on SGLang as one planned job."
    )
    parser.add_argument("--version", action="version", version=f"sglang-blend {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")
    for module in SUBCOMMANDS:
        module.add_parser(subparsers)
    return parser
