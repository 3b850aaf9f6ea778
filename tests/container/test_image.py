"""The image and those who start it agree with the job: files, users, times, exit codes, flags."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from container.jobs import ROOT
from sglang_blend.config import DEFAULT_DRAIN_TIMEOUT_S
from sglang_blend.errors import BlendError
from sglang_blend.fork.series import SGLANG_VERSION
from sglang_blend.launch_offline import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_FAILED, parse

DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "docker" / "Dockerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["job"]
CLAIM, CACHE, JOB = yaml.safe_load_all((ROOT / "examples" / "cluster" / "job.yaml").read_text())
POD: dict[str, Any] = JOB["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]


def instructions(name: str) -> list[str]:
    """What stands behind each instruction of that name."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, flags=re.MULTILINE)


def image_user() -> int:
    return int(instructions("USER")[-1].split(":")[0])


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The image's working folder after its COPY instructions."""
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for *sources, target in map(shlex.split, instructions("COPY")):
        for source in sources:
            assert source.split("/")[0] in let_through, f".dockerignore keeps {source} out"
            if target.startswith("/"):
                assert (ROOT / source).is_file()
            elif (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                (tmp_path / target).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / target)
    return tmp_path


def test_the_image_gets_every_file_that_the_package_is_made_of(context: Path) -> None:
    pyproject = tomllib.loads((context / "pyproject.toml").read_text())
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = [
        pyproject["project"]["readme"],
        *pyproject["project"]["license-files"],
        *wheel["packages"],
        *wheel["force-include"],
    ]
    assert [part for part in parts if not (context / part).exists()] == []
    assert (context / "patches" / SGLANG_VERSION / "series.json").exists()


def test_the_image_has_what_the_install_script_calls(context: Path) -> None:
    (run,) = (text for text in instructions("RUN") if "install_fork.sh" in text)
    extras = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, flags=re.MULTILINE)[0]
    assert '"$EXTRAS"' in run
    lists = context / "lists"
    lists.mkdir()
    subprocess.run(
        [sys.executable, "scripts/missing_requirements.py", extras, lists], cwd=context, check=True
    )
    assert {path.name for path in lists.iterdir()} == {"missing.txt", "held.txt", "locked.txt"}
    for script in re.findall(
        r"scripts/\w+\.(?:py|sh)", (context / "scripts" / "install_fork.sh").read_text()
    ):
        assert script == "scripts/setup.sh" or (context / script).exists(), script


def test_the_base_is_the_sglang_that_the_patches_are_for() -> None:
    assert instructions("ARG")[0] == f"SGLANG_IMAGE=lmsysorg/sglang:v{SGLANG_VERSION}"


def test_nobody_runs_the_job_as_root() -> None:
    assert image_user() > 0
    security = POD["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] == security["fsGroup"] == image_user()
    assert f":-{image_user()}:{image_user()}" in COMPOSE["user"]


def test_sigterm_reaches_the_job() -> None:
    """Exec form: no shell stands between. tini hands a signal to its child alone, unless told -g."""
    entry = json.loads(instructions("ENTRYPOINT")[0])
    assert entry == ["/usr/bin/tini", "--", "python3", "-m", "sglang_blend.launch_offline"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_sigkill_comes_after_the_drain() -> None:
    flags, _ = parse(CONTAINER["args"])
    assert POD["terminationGracePeriodSeconds"] >= flags.drain_timeout + 30
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) >= DEFAULT_DRAIN_TIMEOUT_S + 30


def test_the_shown_commands_are_flags_of_the_job() -> None:
    for argv in (CONTAINER["args"], COMPOSE["command"]):
        flags, engine_argv = parse(argv)
        assert str(flags.file) == "batch.jsonl"
        assert all(re.match("--model-path|[A-Z$]", arg) for arg in engine_argv), engine_argv


def test_kubernetes_tries_again_only_what_can_get_better() -> None:
    """Pre-emption does not count, an end by SIGTERM neither; what an error ends, ends the Job."""
    disrupted, stopped, failed = JOB["spec"]["podFailurePolicy"]["rules"]
    assert disrupted["action"] == stopped["action"] == "Ignore"
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert stopped["onExitCodes"]["values"] == [EXIT_INTERRUPTED + 2, EXIT_INTERRUPTED + 15]
    assert failed["action"] == "FailJob"
    assert failed["onExitCodes"]["values"] == [EXIT_SOME_FAILED, BlendError.exit_code]
    assert EXIT_OK not in failed["onExitCodes"]["values"]
    assert {rule["onExitCodes"]["containerName"] for rule in (stopped, failed)} == {CONTAINER["name"]}
    assert POD["restartPolicy"] == "Never"  # else Kubernetes refuses the policy


@pytest.mark.parametrize(("code", "ends_with"), [(0, 0), (1, 0), (2, 2), (75, 75), (143, 143)])
def test_a_ray_job_with_failed_lines_is_not_run_again(code: int, ends_with: int) -> None:
    """`backoffLimit` counts every exit code above 0, and 1 says that every line is done."""
    job = yaml.safe_load((ROOT / "examples" / "cluster" / "rayjob.yaml").read_text())
    around, command, _ = job["spec"]["entrypoint"].partition("python -m sglang_blend.launch_offline ")
    assert command
    assert (
        subprocess.run(["bash", "-c", f"{around} bash -c 'exit {code}'"], check=False).returncode == ends_with
    )


def test_what_the_job_writes_to_can_be_written_to() -> None:
    """The root of the pod is read-only: the working folder, the home and /tmp are volumes."""
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert {instructions("WORKDIR")[-1], "/cache", "/tmp", "/dev/shm"} == mounted
    env = dict(pair.split("=") for pair in instructions("ENV")[0].split())
    assert env["HOME"] == "/cache"
    assert env["TORCHINDUCTOR_CACHE_DIR"].startswith("/cache/")
    claims = {v["persistentVolumeClaim"]["claimName"] for v in POD["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {CLAIM["metadata"]["name"], CACHE["metadata"]["name"]}


def test_both_health_checks_call_the_script_that_the_image_has() -> None:
    (target,) = (line.split()[-1] for line in instructions("COPY") if "health.sh" in line)
    name = Path(target).name
    assert CONTAINER["livenessProbe"]["exec"]["command"] == [name]
    assert instructions("HEALTHCHECK")[0].endswith(f'CMD ["{name}"]')
