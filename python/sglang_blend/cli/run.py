"""`sglang-blend run`: the main job, as `python -m sglang_blend.launch_offline`."""

from __future__ import annotations

import argparse

from sglang_blend import launch_offline


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="run a batch file",
        description=f"{launch_offline.DESCRIPTION} `python -m sglang_blend.launch_offline` is the same.",
        epilog=f"example: sglang-blend run --file batch.jsonl. {launch_offline.EPILOG}",
        allow_abbrev=False,
    )
    launch_offline.add_cli_args(parser)
    parser.set_defaults(run=run, takes_engine_flags=True)


def run(args: argparse.Namespace) -> int:
    """Run the job; returns the exit code."""
    return launch_offline.run(args, args.engine_argv)
