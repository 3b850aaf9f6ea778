"""`sglang-blend calibrate --steps` joins a job's steps with the record that it ran with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from sglang_blend.cli import main
from sglang_blend.cost.hardware import Hardware, hardware, hardware_from_file
from sglang_blend.cost.measured import MeasuredRates
from sglang_blend.scheduling.step_records import COLUMNS, run_header

RATES = MeasuredRates(
    gemm_tokens=(1, 64), gemm_flop_per_s=(1e9, 1e11), prefill_attention_flop_per_s=1e11,
    decode_attention_bytes_per_s=1e9,
)  # fmt: skip


def _steps_file(path: Path, record: Hardware) -> Path:
    step = dict.fromkeys(COLUMNS, 0) | {"steps": 1, "decode_tokens": 2, "compute_s": 0.1}
    lines: list[Any] = [run_header(device="cpu", hardware=asdict(record))]
    lines += [[(step | {"start_s": 0.15 * i})[name] for name in COLUMNS] for i in range(30)]
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


def test_the_record_of_the_job_gets_the_overhead_of_its_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 ms of 150 are not the kernels'; all else stays."""
    record = replace(hardware("cpu"), measured=RATES)
    steps, out = _steps_file(tmp_path / "batch.steps.jsonl", record), tmp_path / "mine.json"
    assert main(["calibrate", "--steps", str(steps), "--out", str(out)]) == 0
    found = hardware_from_file(out)
    assert found.measured is not None
    assert found.measured.step_overhead_s == pytest.approx(0.05)
    assert replace(found, measured=RATES) == record
    assert "50.0 ms" in capsys.readouterr().out


def test_steps_of_a_job_without_calibration_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence says what to do first; so does the one for a file that is not there."""
    steps = _steps_file(tmp_path / "batch.steps.jsonl", hardware("cpu"))
    assert main(["calibrate", "--steps", str(steps)]) == 2
    assert "run `sglang-blend calibrate`" in capsys.readouterr().err
    assert main(["calibrate", "--steps", str(tmp_path / "absent")]) == 2
    assert "No such file" in capsys.readouterr().err
