"""What stands around the package agrees with it: versions, metadata, workflows, templates."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from sglang_blend import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())


def check_release() -> Any:
    spec = importlib.util.spec_from_file_location("check_release", ROOT / "scripts" / "check_release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_version_has_its_place_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert check_release().changelog_problems(Version(__version__), changelog) == []
    released = re.findall(r"^## \[([0-9.]+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert released == sorted(released, key=Version, reverse=True)
    assert Version(released[0]) <= Version(__version__)


@pytest.mark.parametrize(
    ("version", "changelog", "is_fit"),
    [
        ("1.2.0", "## [1.2.0] - 2026-12-01\n", True),
        ("1.2.0", "## [1.2.0]\n", False),
        ("1.2.0", "## [1.20] - 2026-12-01\n", False),
        ("1.2.0.dev0", "## [Unreleased]\n", True),
        ("1.2.0.dev0", "## [1.1.0] - 2026-12-01\n", False),
    ],
)
def test_a_release_without_its_section_is_noticed(version: str, changelog: str, is_fit: bool) -> None:
    assert (check_release().changelog_problems(Version(version), changelog) == []) == is_fit


def test_the_workflow_runs_commands_that_exist_on_the_pythons_that_are_promised() -> None:
    jobs = WORKFLOW["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert sorted(commands) == ["scripts/check", "scripts/test.sh"]
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)
    prefix = "Programming Language :: Python :: 3."
    promised = {
        "3." + text.removeprefix(prefix) for text in PROJECT["classifiers"] if text.startswith(prefix)
    }
    assert set(jobs["check"]["strategy"]["matrix"]["python"]) == promised
    assert PROJECT["requires-python"] == f">={min(promised, key=Version)}"


def test_the_tools_of_pre_commit_are_those_of_the_lock() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    locked = (ROOT / "requirements.lock").read_text()
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert re.search(rf"^{tool}(-py)?==", locked, re.MULTILINE), tool


def test_an_issue_is_asked_for_what_it_takes_to_help() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    required = [
        part["attributes"]["label"]
        for part in form["body"]
        if part.get("validations", {}).get("required", False)
    ]
    assert any("sglang-blend fork check" in label for label in required)
    assert any("summary file" in label for label in required)
