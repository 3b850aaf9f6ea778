"""What no container engine, cluster or Slurm is here to run is held against its linter or schema."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compose_spec import PyCompose

from container.jobs import ROOT

SHELL_SCRIPTS = sorted(
    path
    for folder in ("docker", "examples", "scripts", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.read_bytes()[:32].startswith(b"#!/usr/bin/env bash\n")
)


def lint(tool: str, *args: object) -> str:
    """Run a linter of this environment; returns what it found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which(tool, path=path)
    assert program is not None, f"no {tool}: scripts/setup.sh installs it"
    done = subprocess.run(
        [program, *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert lint("hadolint", "--failure-threshold", "info", ROOT / "docker" / "Dockerfile") == ""


def test_shellcheck_finds_nothing_in_any_script() -> None:
    assert {"setup.sh", "install_fork.sh", "health.sh", "slurm.sh", "run"} <= {p.name for p in SHELL_SCRIPTS}
    assert lint("shellcheck", *SHELL_SCRIPTS) == ""


# The release in which podFailurePolicy became stable, and the newest known.
@pytest.mark.parametrize("release", ["1.31", "1.37"])
def test_the_kubernetes_job_fits_the_schema(release: str) -> None:
    job = ROOT / "examples" / "cluster" / "job.yaml"
    said = lint("kubernetes-validate", "--strict", "--kubernetes-version", release, job)
    assert said.count("passed") == 3, said


def test_the_compose_file_fits_the_specification() -> None:
    """With its variables filled in, as Compose does before it looks at anything."""
    text = (ROOT / "docker" / "compose.yaml").read_text()
    filled = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", re.sub(r"\$\{BATCH_DIR:\?.*?\}", "/batches", text))
    assert "$" not in filled
    compose = PyCompose.from_yaml(filled)
    compose.validate()
    assert compose.service_names() == ["job"]


def test_the_linters_do_find_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get install nano\n")
    (tmp_path / "script.sh").write_text("#!/usr/bin/env bash\nrm $1/*\n")
    (tmp_path / "job.yaml").write_text(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\nspec: {backofLimit: 3}\n"
    )
    for tool, *args in (
        ("hadolint", tmp_path / "Dockerfile"),
        ("shellcheck", tmp_path / "script.sh"),
        ("kubernetes-validate", "--strict", tmp_path / "job.yaml"),
    ):
        with pytest.raises(AssertionError):
            lint(tool, *args)
    with pytest.raises(ValueError, match="restrat"):
        PyCompose.from_yaml('services: {job: {image: a, restrat: "no"}}')
