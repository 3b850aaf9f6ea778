"""The scripts for Slurm, run as Slurm runs them, with the job's own command line on the echo engine.

Slurm's commands are stand-ins that write down how they were called.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.jobs import ECHO_JOB, PATIENCE_S, ROOT, num_answers, wait_for, write_batch

CLUSTER = ROOT / "examples" / "cluster"
PYTHON = f"""#!/bin/bash
[ "$1 $2" = "-m sglang_blend.launch_offline" ] || exit 99
shift 2
exec {" ".join(ECHO_JOB)} "$@" --no-report --order fcfs --drain-timeout "${{DRAIN:-0.2}}"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >>"$CALLS"
[ "$1" != show ] || printf 'node1\\nnode2\\n'
"""
SRUN = """#!/bin/bash
echo "srun $*" >>"$CALLS"
[[ "$*" != *hostname* ]] || echo "10.0.0.1 10.0.0.2"
"""
# One of these takes the model as an argument, the other all flags.
SCRIPTS = ("slurm.sh", "slurm_ray.sh")


class Slurm:
    """Starts the scripts as Slurm does, and hears what they ask of it."""

    def __init__(self, folder: Path) -> None:
        programs = folder / "programs"
        programs.mkdir()
        stand_ins = {"python": PYTHON, "scontrol": SCONTROL, "srun": SRUN, "sleep": "#!/bin/bash\n"}
        for name, text in stand_ins.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._calls = folder / "calls"
        self._calls.touch()
        self._env = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(self._calls),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_GPUS_ON_NODE": "8",
        }
        self._screen = (folder / "screen").open("w+")
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, batch: Path, drain_s: float = 0.2) -> subprocess.Popen[bytes]:
        model = ["some-model"] if script == "slurm_ray.sh" else ["--model-path", "some-model"]
        process = subprocess.Popen(
            ["bash", CLUSTER / script, batch, *model],
            env={**self._env, "DRAIN": str(drain_s)},
            stdout=self._screen,
            stderr=self._screen,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def set(self, name: str, value: str) -> None:
        """In the environment of what is started from now on."""
        self._env[name] = value

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()

    def screen(self) -> str:
        """What the script and the job have said so far."""
        return Path(self._screen.name).read_text()

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._screen.close()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path)
    yield slurm
    slurm.end()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("prompt", "code"), [("two", 0), ("refuse", 1)])
def test_the_exit_code_is_the_jobs(slurm: Slurm, tmp_path: Path, script: str, prompt: str, code: int) -> None:
    batch = write_batch(tmp_path, "one", prompt)
    assert slurm.start(script, batch).wait(PATIENCE_S) == code
    assert "scontrol requeue 7" not in slurm.calls()


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_input_that_cannot_be_used_ends_with_2(slurm: Slurm, tmp_path: Path, script: str) -> None:
    assert slurm.start(script, tmp_path / "none.jsonl").wait(PATIENCE_S) == 2


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("restarts", "requeued"), [("0", True), ("5", False)])
def test_what_may_pass_elsewhere_is_queued_again_a_few_times(
    slurm: Slurm, tmp_path: Path, script: str, restarts: str, requeued: bool
) -> None:
    """The first job still writes the output: the second ends with 75."""
    batch = write_batch(tmp_path, "one", "sleep")
    slurm.start(script, batch)
    wait_for(lambda: num_answers(batch) == 1)
    slurm.set("SLURM_RESTART_COUNT", restarts)
    assert slurm.start(script, batch).wait(PATIENCE_S) == 75
    assert ("scontrol requeue 7" in slurm.calls()) is requeued


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("signum", "requeued"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)], ids=["preempted", "time is up"]
)
def test_a_signal_drains_the_job_and_only_the_time_limit_queues_it_again(
    slurm: Slurm, tmp_path: Path, script: str, signum: signal.Signals, requeued: bool
) -> None:
    batch = write_batch(tmp_path, "one", "sleep")
    running = slurm.start(script, batch)
    wait_for(lambda: num_answers(batch) == 1)
    running.send_signal(signum)  # to the shell alone: B: in --signal, and what pre-emption reaches first
    assert running.wait(PATIENCE_S) == 143
    assert num_answers(batch) == 1
    assert ("scontrol requeue 7" in slurm.calls()) is requeued


def test_a_second_signal_ends_the_job_and_not_only_the_script(slurm: Slurm, tmp_path: Path) -> None:
    batch = write_batch(tmp_path, "one", "sleep")
    running = slurm.start("slurm.sh", batch, drain_s=50)
    wait_for(lambda: num_answers(batch) == 1)
    running.send_signal(signal.SIGUSR1)
    wait_for(lambda: "Stopping: waiting 50 s" in slurm.screen())
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE_S) == 143
    assert "What was still in flight is given up: " in slurm.screen()


def test_ray_runs_on_both_nodes_and_their_gpus_become_replicas(slurm: Slurm, tmp_path: Path) -> None:
    assert slurm.start("slurm_ray.sh", write_batch(tmp_path, "one")).wait(PATIENCE_S) == 0
    started = [call for call in slurm.calls() if "ray start" in call]
    assert len(started) == 2
    assert any("--nodelist=node1" in call and "--head" in call for call in started)
    assert any("--exclude=node1" in call and "--address=10.0.0.1:6379" in call for call in started)
    summary = (tmp_path / "batch.summary.json").read_text()
    assert '"ok": 1' in summary
