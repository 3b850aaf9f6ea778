"""`sglang-blend calibrate`: measure the present machine, for the planner and the simulator.

sglang-blend calibrate --model-path meta-llama/Llama-3.1-8B-Instruct
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_blend.cost.hardware import Hardware, calibrated_file, hardware_from_dict
from sglang_blend.cost.hf_config import shape_from_config
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.errors import ConfigError, OutputError
from sglang_blend.scheduling.step_records import read_steps, step_overhead_s
from sglang_blend.simulate.overlap import choose_overlap

_DTYPES = ("auto", "bfloat16", "float16", "float32")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure this machine, for the planner and the simulator",
        description="Measure copy bandwidth, the rate of a model's linear layers by step size, prefill and"
        " decode attention and, on a GPU, decode attention on a part of its multiprocessors. A minute or two,"
        " with nothing else on the machine. Every later job on this kind of device uses the record.",
        epilog="example: sglang-blend calibrate --model-path meta-llama/Llama-3.1-8B-Instruct",
    )
    add = parser.add_argument
    add("--model-path", help="model folder whose layers are run (default: the demo model)")
    add("--dtype", default="auto", help=f"{', '.join(_DTYPES)} (default: that of the engine here)")
    add("--out", type=Path, help="write the record here instead; --hardware FILE reads it")
    add(
        "--steps",
        type=Path,
        help="steps file of a job that ran after a calibration: add what a step takes beside its kernels to"
        " that job's record, and measure nothing else",
    )
    add("--json", action="store_true", help="print the record as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, write, print; returns the exit code.

    Raises:
        ConfigError: no such dtype or model.
        OutputError: the record cannot be written.
    """
    if args.dtype not in _DTYPES:
        raise ConfigError(f"--dtype {args.dtype!r} is unknown; {', '.join(_DTYPES)} are allowed.")
    if args.steps is not None:
        return _finish(*_with_step_overhead(args.steps), args)
    from sglang_blend.srt.cpu.threads import set_thread_defaults

    set_thread_defaults()  # before torch starts threads; as the engine has them
    from sglang_blend.srt.calibration.engine_dtype import engine_dtype
    from sglang_blend.srt.calibration.machine import measure

    model_config, model = _model(args.model_path)
    record = _with_overlap(measure(model_config, model, engine_dtype(args.dtype)), model_config)
    return _finish(record, record.name, args)


def _with_overlap(record: Hardware, model_config: dict[str, Any]) -> Hardware:
    """The record with what `--overlap auto` takes on this machine; a CPU has one set of cores for both."""
    if record.name == "cpu" or record.measured is None:
        return record
    cost = RooflineCost(shape=shape_from_config(model_config), hardware=record)
    choice = choose_overlap(cost)
    mode = "mixed" if choice.mode == "mixed" else "none"
    print(f"--overlap auto is {mode} here ({choice.reason}).", file=sys.stderr)
    return replace(record, measured=replace(record.measured, overlap=mode))


def _finish(record: Hardware, device_name: str, args: argparse.Namespace) -> int:
    path = args.out or calibrated_file(device_name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(record.to_json())
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}; name another file with --out."
        ) from error
    print(record.to_json().decode() if args.json else _in_words(record, path))
    return 0


def _with_step_overhead(steps: Path) -> tuple[Hardware, str]:
    """The record that a job ran with, and what its steps took beside the kernels; the device's name.

    Raises:
        ConfigError: the file is not one of steps, or the job ran without a calibration.
    """
    try:
        engines = list(read_steps(steps))
    except OSError as error:
        raise ConfigError(f"--steps {steps} cannot be read: {error.strerror}; check the path.") from error
    header = engines[-1].header if engines else {}
    used = header.get("hardware")
    record = hardware_from_dict(used) if isinstance(used, dict) else None
    if record is None or record.measured is None:
        raise ConfigError(
            f"--steps {steps}: the job ran without a calibrated record; run `sglang-blend calibrate`, then a "
            "job."
        )
    measured = replace(record.measured, step_overhead_s=step_overhead_s(engines))
    return replace(record, measured=measured), str(header["device"])


def _model(path: str | None) -> tuple[dict[str, Any], str]:
    """Content of its config.json, and its name."""
    if path is None:
        from sglang_blend.demo_model import NAME, demo_model_path

        folder, name = demo_model_path(), NAME
    else:
        folder, name = Path(path), Path(path).name
    try:
        return json.loads((folder / "config.json").read_bytes()), name
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model-path {path!r} has no readable config.json ({error}).") from error


def _in_words(record: Hardware, path: Path) -> str:
    measured = record.measured
    assert measured is not None, "measure gives it"
    lines = [
        f"{record.name}, layers of {measured.model}",
        f"  copies                 {record.effective_bytes_per_s / 1e9:10,.1f} GB/s read and written",
        f"  prefill attention      {measured.prefill_attention_flop_per_s / 1e12:10,.3f} TFLOP/s",
        f"  decode attention       {measured.decode_attention_bytes_per_s / 1e9:10,.1f} GB/s of KV",
        "  linear layers, tokens a step and TFLOP/s:",
    ]
    if measured.step_overhead_s is not None:
        lines.insert(-1, f"  a step beside kernels   {1e3 * measured.step_overhead_s:9,.1f} ms")
    rates = zip(measured.gemm_tokens, measured.gemm_flop_per_s, strict=True)
    lines += [f"    {tokens:6,.0f} {rate / 1e12:14,.3f}" for tokens, rate in rates]
    shares = zip(measured.sm_shares, measured.sm_share_bandwidth, strict=True)
    lines += [
        f"  decode on {share:4.0%} of the multiprocessors: {part:4.0%} of that" for share, part in shares
    ]
    if measured.contention is not None:
        lines.append(f"  beside GEMMs on the others it takes {measured.contention:.2f} x as long")
    if measured.gemm_contention is not None:
        lines.append(f"  and the GEMMs beside it {measured.gemm_contention:.2f} x")
    return "\n".join([*lines, f"Written to {path}."])
