"""SGLang's own server flags, parsed by SGLang, with the defaults an offline job wants."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

from sglang.srt.platforms import current_platform
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs, prepare_server_args

from sglang_blend.errors import ConfigError
from sglang_blend.job.engine_flags import refuse_flags, refuse_values
from sglang_blend.request import POLICIES
from sglang_blend.srt.overlap import FLAGS_OF_MODE, check_device, chosen_mode, split_overlap
from sglang_blend.srt.platform import BlendCpuPlatform

# Given before the user's flags, so that the user's win.
OFFLINE_DEFAULTS = (
    "--log-level", "error",
    # Cached tokens in the usage of every answer: the summary measures sharing with them.
    "--enable-cache-report",
    # Executes the plan, whatever its order; without a plan it makes its own.
    "--schedule-policy", "dual-scan",
)  # fmt: skip

# The overlap schedule hides host work behind a device; on the CPU both want the same cores.
CPU_DEFAULTS = ("--disable-overlap-schedule",)


def with_engine_defaults(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same for arguments of SGLang's engine and runtime in Python; the given ones win."""
    on_cpu = isinstance(current_platform, BlendCpuPlatform)
    defaults = {"schedule_policy": "dual-scan"} | ({"disable_overlap_schedule": True} if on_cpu else {})
    if "model_path" not in kwargs:
        from sglang_blend.demo_model import NAME, demo_model_path

        defaults |= {"model_path": str(demo_model_path()), "served_model_name": NAME}
    return defaults | kwargs


def server_args(argv: Sequence[str], *, runs_steps: bool = True) -> ServerArgs:
    """Parse SGLang's flags, and our `--overlap` among them.

    Args:
        runs_steps: False where only the tokenizer is wanted: then the device is not asked how to overlap, nor
            whether the flags go together.

    Raises:
        ConfigError: a flag is unknown or its value is not allowed, or no job can run with it.
    """
    refuse_flags(argv)
    load_plugins()
    on_cpu = isinstance(current_platform, BlendCpuPlatform)
    defaults = OFFLINE_DEFAULTS + (CPU_DEFAULTS if on_cpu else ())
    mode, given = split_overlap(argv)
    if not runs_steps:
        mode = "none"
    check_device(mode)
    if mode == "auto":
        mode = chosen_mode(lambda: _parsed([*defaults, *given]))
    args = _parsed([*defaults, *FLAGS_OF_MODE[mode], *given])
    if runs_steps:
        _check_together(args)
    return args


def _check_together(args: ServerArgs) -> None:
    """SGLang's own check, which it makes when the engine starts and the results are open already."""
    try:
        copy.deepcopy(args).check_server_args()  # it changes those of LoRA, and takes none twice
    except (ValueError, AssertionError) as e:
        raise ConfigError(f"SGLang refuses these flags: {e}") from e


def _parsed(argv: list[str]) -> ServerArgs:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = prepare_server_args(argv)
    except SystemExit as e:
        if not e.code:
            raise  # --help
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise ConfigError(
            f"{reason}; --help lists this command's flags, --help-engine those of SGLang."
        ) from e
    except (ValueError, AssertionError, OSError) as e:
        raise ConfigError(f"SGLang refuses these flags (--model-path {_model_path(argv)}): {e}") from e
    if args.enable_priority_scheduling and args.schedule_policy in POLICIES:
        raise ConfigError(
            "--enable-priority-scheduling puts requests in an order that is not the plan's: leave it out, or "
            "run without a plan by --schedule-policy fcfs."
        )
    refuse_values(lambda name: getattr(args, name.removeprefix("--").replace("-", "_")))
    return args


def _model_path(argv: Sequence[str]) -> str:
    """The last value of `--model-path` or `--model`; SGLang has not parsed them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model-path", "--model", default="")
    model: str = parser.parse_known_args(list(argv))[0].model_path
    return model
