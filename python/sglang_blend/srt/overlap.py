"""`--overlap auto|none|mixed|pdmux`: how the engine runs compute beside KV reads, as SGLang's own flags.

none     prefill and decode in separate steps, as SGLang without flags
mixed    chunks of prefill ride with decode, with the paced token budget of `srt.policy`
pdmux    prefill and decode on separate parts of the multiprocessors (NVIDIA, compute capability 6 to 9)
auto     none or mixed, by the machine's calibration; none where there is none
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from sglang_blend.config import OVERLAP_MODES
from sglang_blend.cost.hardware import calibrated
from sglang_blend.errors import ConfigError
from sglang_blend.srt.engine_cost import device_name

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

FLAG = "--overlap"
FLAGS_OF_MODE = {
    "none": (),
    "mixed": ("--enable-mixed-chunk",),
    "pdmux": ("--enable-pdmux", "--chunked-prefill-size", "-1", "--disable-overlap-schedule"),
}


def split_overlap(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of `--overlap`, `auto` when it is not there, and the other flags.

    Raises:
        ConfigError: no such mode.
    """
    mode, rest, flags = "auto", [], iter(argv)
    for flag in flags:
        name, equals, value = flag.partition("=")
        if name == FLAG:
            mode = value if equals else next(flags, "")
        else:
            rest.append(flag)
    if mode not in OVERLAP_MODES:
        raise ConfigError(f"{FLAG} {mode!r} is unknown; {', '.join(OVERLAP_MODES)} are allowed.")
    return mode, rest


def check_device(mode: str) -> None:
    """Refuse what this machine cannot do.

    Raises:
        ConfigError: pdmux without a GPU that can be divided.
    """
    if mode != "pdmux":
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"{FLAG} pdmux divides an NVIDIA GPU, and there is none; leave it out or take mixed."
        )
    major, minor = torch.cuda.get_device_capability()
    if not 6 <= major <= 9:
        raise ConfigError(
            f"{FLAG} pdmux: SGLang divides GPUs of compute capability 6 to 9, this one has {major}.{minor}; "
            "leave it out or take mixed."
        )


def chosen_mode(parse: Callable[[], ServerArgs]) -> str:
    """What `auto` means on this machine: a mode, never `auto`; `sglang-blend calibrate` has found it out.

    Args:
        parse: the other flags as SGLang has them; called only where there is something to choose.
    """
    hardware = calibrated(device_name())
    mode = "none" if hardware is None or hardware.measured is None else hardware.measured.overlap or "none"
    if mode == "none" or not torch.cuda.is_available():  # a CPU has one set of cores for both
        return "none"
    args = parse()
    if args.enable_mixed_chunk or args.enable_pdmux or args.speculative_algorithm or args.pp_size > 1:
        return "none"
    logger.warning("%s auto is %s, by the calibration of this machine.", FLAG, mode)
    return mode
