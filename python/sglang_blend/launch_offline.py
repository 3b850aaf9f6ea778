"""The main job: `python -m sglang_blend.launch_offline --file batch.jsonl`.

Options of the job and, unchanged, every SGLang server flag. Exit codes: 0 every line was answered, 1 some
lines failed, 2 the job cannot run, 75 it could not now and may later or elsewhere (EX_TEMPFAIL), 129, 130 or
143 stopped by SIGHUP, SIGINT or SIGTERM. What had finished is kept.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sglang_blend import fork
from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.config import MAX_PREPARE_WORKERS, OVERLAP_MODES, JobConfig, resolve_files
from sglang_blend.console import DEFAULT_LOG_LEVEL, LOG_LEVELS, complain, log_to_stderr, open_streams, say
from sglang_blend.engine.protocol import Engine
from sglang_blend.engine.supervisor import SupervisorConfig
from sglang_blend.errors import EXIT_UNUSABLE, BlendError, ConfigError
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.result_file import parts_folder
from sglang_blend.job.stop import Stop
from sglang_blend.machine import usable_cores
from sglang_blend.report.at_end import make_report

logger = logging.getLogger(__name__)

DESCRIPTION = "Run a whole batch file (OpenAI Batch format), or table of prompts, through SGLang as one job."
EPILOG = (
    "Every SGLang server flag is passed through: --model-path (default: the demo model "
    "SmolLM2-135M-Instruct), --tp-size, --context-length ...; --help-engine lists them all."
)
EXIT_OK, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 1, 128


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job from its command line; returns the exit code."""
    open_streams()
    args, engine_argv = parse(sys.argv[1:] if argv is None else argv)
    return run(args, engine_argv)


def run(args: argparse.Namespace, engine_argv: Sequence[str]) -> int:
    """Run one job; returns the exit code.

    Args:
        args: of `add_cli_args`.
        engine_argv: SGLang's flags.
    """
    log_to_stderr(args.log_level)
    if args.log_level != DEFAULT_LOG_LEVEL:
        engine_argv = ["--log-level", args.log_level, *engine_argv]
    if args.overlap != "auto":
        engine_argv = ["--overlap", args.overlap, *engine_argv]
    with Stop() as stop:
        try:
            config = JobConfig.from_cli_args(args)
            cluster = ClusterConfig.from_cli_args(args)
            if config.sharded_output and cluster is None:
                raise ConfigError("--sharded-output needs --replicas: one engine's answers are one file.")
            job = OfflineJob(config, stop, engine_argv=engine_argv)
            summary = job.run(
                lambda: start_engine(engine_argv, config, stats_file=job.files.steps_file, cluster=cluster),
                check=fork.require,
            )
        except BlendError as e:
            complain(f"launch_offline: {e}")
            return e.exit_code
        except KeyboardInterrupt:
            complain("launch_offline: interrupted.")
            return EXIT_INTERRUPTED + (stop.first_signal or 0)
        except Exception:  # Python would leave with 1, which says that every line is done
            logger.exception("launch_offline: this is a bug; what had finished is kept.")
            return EXIT_UNUSABLE
    say(summary.text())
    if config.report and summary.complete and not job.was_finished:
        files = job.files
        if make_report(str(files.output), str(files.summary_file), files.report_file):
            say(f"  {'report':<11}{files.report_file}")
    if not summary.complete:
        return EXIT_INTERRUPTED + (stop.first_signal or 0)
    return EXIT_SOME_FAILED if summary.failed else EXIT_OK


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into the job's options and SGLang's flags (left as they are)."""
    return make_parser().parse_known_args(argv)


def make_parser() -> argparse.ArgumentParser:
    """The command line of the main job."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_blend.launch_offline",
        description=f"{DESCRIPTION} `sglang-blend run` is the same.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    add_cli_args(parser)
    return parser


def add_cli_args(parser: argparse.ArgumentParser) -> None:
    """Register the job's options, and those of the command around it."""
    parser.add_argument("--help-engine", action=_EngineHelp, nargs=0, help="list SGLang's flags and exit")
    JobConfig.add_cli_args(parser)
    ClusterConfig.add_cli_args(parser)
    parser.add_argument(
        "--overlap",
        choices=OVERLAP_MODES,
        default="auto",
        help="compute beside KV reads: in separate steps (none), prefill chunks riding with decode (mixed) or"
        " separate parts of the GPU (pdmux); auto is none until `sglang-blend calibrate` has run on a GPU"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default=DEFAULT_LOG_LEVEL,
        help="how much this command says; another than %(default)s is SGLang's level too, whose words are in"
        " the engine's log (default: %(default)s)",
    )


def start_engine(
    engine_argv: Sequence[str],
    config: JobConfig,
    log: Path | None = None,
    *,
    stats_file: Path | None = None,
    cluster: ClusterConfig | None = None,
) -> Engine:
    """Start the real engine, or several on Ray; on the demo model where no other is named.

    Args:
        engine_argv: SGLang's flags.
        config: of the job that it is for.
        log: what its processes say; beside the job's output unless named.
        stats_file: what its schedulers do, step by step; nowhere unless named.
        cluster: how many engines; None for one, without Ray.

    Raises:
        BlendError: a flag is wrong, the model is not there, or a process dies on the way.
    """
    names_model = any(arg.split("=")[0] in ("--model-path", "--model", "--config") for arg in engine_argv)
    if not names_model:
        from sglang_blend.demo_model import NAME, demo_model_path

        engine_argv = ["--model-path", str(demo_model_path()), "--served-model-name", NAME, *engine_argv]
    files = resolve_files(config)
    log = log or files.engine_log
    num_prepare_workers = config.prepare_workers or min(usable_cores(), MAX_PREPARE_WORKERS)
    supervision = SupervisorConfig(
        start_timeout_s=config.start_timeout,
        hang_timeout_s=config.hang_timeout,
        max_restarts=config.max_restarts,
    )
    if cluster is not None:
        from sglang_blend.cluster.cluster_engine import ClusterEngine
        from sglang_blend.engine.prepare_pool import Preparer

        return ClusterEngine(
            engine_argv,
            cluster,
            lambda: Preparer(engine_argv, log=log, num_workers=num_prepare_workers),
            stats_file=stats_file,
            supervision=supervision,
            parts_folder=parts_folder(files.output) if config.sharded_output else None,
        )
    from sglang_blend.engine.local import LocalEngine

    return LocalEngine(
        engine_argv,
        log=log,
        stats_file=stats_file,
        num_prepare_workers=num_prepare_workers,
        supervision=supervision,
    )


class _EngineHelp(argparse.Action):
    def __call__(self, *args: object, **kwargs: object) -> None:
        from sglang_blend.srt.flags import server_args

        server_args(["--help"])  # prints and exits


if __name__ == "__main__":
    sys.exit(main())
