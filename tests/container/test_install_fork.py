"""scripts/missing_requirements.py: what SGLang brought stays, what is lacking comes at its locked version."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

from container.jobs import ROOT

SCRIPT = ROOT / "scripts" / "missing_requirements.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("missing_requirements", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lists(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, **installed: str
) -> dict[str, list[str]]:
    """The three lists for a Python with these packages."""
    versions = {name.replace("_", "-"): Version(version) for name, version in installed.items()}
    monkeypatch.setattr(script, "installed_versions", lambda: versions)
    script.main("engine,fork,report,s3", folder)
    return {path.stem: path.read_text().splitlines() for path in folder.iterdir()}


def test_nothing_is_missing_where_the_lock_is_installed(tmp_path: Path) -> None:
    """So scripts/setup.sh installs nothing but the package and the fork."""
    subprocess.run([sys.executable, SCRIPT, "engine,fork,report,s3,parquet", tmp_path], check=True)
    assert (tmp_path / "missing.txt").read_text() == ""


def test_what_is_installed_is_held_and_what_is_not_comes_from_the_lock(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = lists(
        script, monkeypatch, tmp_path, torch="2.11.0+cu130", numpy="2.3.5", fsspec="2026.2.0", sglang="0.5.17"
    )
    assert found["held"] == ["fsspec==2026.2.0", "numpy==2.3.5", "torch==2.11.0+cu130"]
    names = [line.split(">=")[0] for line in found["missing"]]
    assert "altair" in names
    assert "s3fs" in names
    assert not {"torch", "numpy", "fsspec", "sglang"} & set(names)
    locked = [line.split("==")[0] for line in found["locked"]]
    assert "altair" in locked
    assert not {"torch", "numpy", "fsspec", "sglang"} & set(locked)
    assert not any("--hash" in line or line.endswith("\\") for line in found["locked"])


def test_a_package_that_is_too_old_for_this_one_may_move(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = lists(script, monkeypatch, tmp_path, wheel="0.37.1", tqdm="4.67.0")
    assert found["held"] == ["tqdm==4.67.0"]
    assert "wheel>=0.45" in found["missing"]
    assert any(line.startswith("wheel==") for line in found["locked"])


def test_an_extra_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "engine,gpu", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("install_fork: no extra gpu; there are dev, docs, engine,")
