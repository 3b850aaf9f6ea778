"""What only some commands need is an extra; where it is missing a sentence names it, and all else works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from report.sample_job import write_job
from sglang_blend.cli import main
from sglang_blend.errors import ConfigError
from sglang_blend.extras import MODULES, require_extra

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = sorted({module for modules in MODULES.values() for module in modules})


def distributions(extra: str) -> set[str]:
    """Names of what the extra asks for, as pyproject.toml has them, and of what SGLang brings."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    brought = {"transformers"} if extra == "engine" else set()
    return brought | {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in extras[extra]}


@pytest.mark.parametrize("extra", sorted(MODULES))
def test_an_extra_brings_what_is_asked_for(extra: str) -> None:
    of_module = metadata.packages_distributions()
    brought = {re.sub(r"[-_.]+", "-", of_module[module][0]).lower() for module in MODULES[extra]}
    assert brought <= distributions(extra)
    require_extra(extra, "nothing")


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ConfigError) as one:
        require_extra("report", "--html")
    assert str(one.value) == (
        "--html needs altair, which is not installed: run `pip install 'sglang-blend[report]'`."
    )
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ConfigError, match="altair and vl_convert, which are not installed"):
        require_extra("report", "--html")


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("report", "OUTPUT"), "report"),
        (("plan", "--file", str(ROOT / "examples" / "batch.jsonl"), "--html", "x.html"), "report"),
        (("simulate", "--paper-trace", "1", "--html", "x.html"), "report"),
        (("fork", "build"), "fork"),
    ],
    ids=lambda given: given if isinstance(given, str) else given[0],
)
def test_a_command_that_needs_it_is_refused_before_it_does_anything(
    words: tuple[str, ...],
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, MODULES[extra][0], None)
    output = str(write_job(tmp_path, num_steps=9))
    assert main([output if word == "OUTPUT" else word for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"pip install 'sglang-blend[{extra}]'" in err


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has no extra at all."""
    lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in HIDDEN)]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines) + "\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def test_a_job_whose_report_cannot_be_made_says_so_and_is_done(
    bare: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sglang_blend.report.at_end import make_report

    output = write_job(tmp_path, num_steps=9)
    monkeypatch.setenv("PYTHONPATH", bare["PYTHONPATH"])
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    with caplog.at_level("WARNING", "sglang_blend.report.at_end"):
        assert not make_report(str(output), str(tmp_path / "batch.summary.json"), tmp_path / "x.html")
    (said,) = caplog.messages
    assert said == (
        "No report: a report needs altair and vl_convert, which are not installed:"
        " run `pip install 'sglang-blend[report]'`."
    )


def test_planning_needs_no_extra(bare: dict[str, str]) -> None:
    command = [sys.executable, "-m", "sglang_blend", "plan", "--file", str(ROOT / "examples" / "batch.jsonl")]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dual-scan" in done.stdout
