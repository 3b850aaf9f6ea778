"""The main job: `python -m sglang_blend.launch_offline --file batch.jsonl`.

Options of the job and, unchanged, every SGLang server flag. Exit codes: 0 every line was answered, 1 some
lines failed, 2 the job could not run, 130 interrupted (what had finished is kept).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from sglang_blend import fork
from sglang_blend.config import JobConfig
from sglang_blend.errors import BlendError
from sglang_blend.job.offline import OfflineJob, RunningEngine
from sglang_blend.log import log_to_stderr

EXIT_OK, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit code."""
    log_to_stderr()
    try:
        config, engine_argv = parse(sys.argv[1:] if argv is None else argv)
        summary = OfflineJob(config).run(lambda: start_engine(engine_argv), check=fork.require)
    except BlendError as e:
        print(f"launch_offline: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("launch_offline: interrupted before the first request ran.", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(summary.text())
    if not summary.complete:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if summary.failed else EXIT_OK


def parse(argv: Sequence[str]) -> tuple[JobConfig, list[str]]:
    """Split the command line into the job's config and SGLang's flags (left as they are)."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_blend.launch_offline",
        description="Run a whole batch file (OpenAI Batch format) through SGLang as one job.",
        epilog="Every SGLang server flag is passed through: --model-path (default: the demo model "
        "SmolLM2-135M-Instruct), --tp-size, --context-length ...; --help-engine lists them all.",
        allow_abbrev=False,
    )
    JobConfig.add_cli_args(parser)
    if "--help-engine" in argv:
        _print_engine_help()
    args, engine_argv = parser.parse_known_args(argv)
    return JobConfig.from_cli_args(args), engine_argv


def start_engine(engine_argv: Sequence[str]) -> RunningEngine:
    """Start the real engine; on the demo model where no other is named.

    Raises:
        BlendError: a flag is wrong, the model is not there, or a process dies on the way.
    """
    # SGLang warns at import of kernels this machine lacks, in each of its processes.
    warnings.filterwarnings("ignore", category=UserWarning)
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning")
    names_model = any(arg.split("=")[0] in ("--model-path", "--model", "--config") for arg in engine_argv)
    if not names_model:
        from sglang_blend.demo_model import NAME, demo_model_path

        engine_argv = ["--model-path", str(demo_model_path()), "--served-model-name", NAME, *engine_argv]
    from sglang_blend.srt.engine import OfflineEngine
    from sglang_blend.srt.flags import server_args

    return OfflineEngine(server_args(engine_argv))


def _print_engine_help() -> None:
    from sglang_blend.srt.flags import server_args

    server_args(["--help"])


if __name__ == "__main__":
    sys.exit(main())
