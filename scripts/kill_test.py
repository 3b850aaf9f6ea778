#!/usr/bin/env python
"""Kills a real job with SIGKILL at random moments, resumes it every time, and checks what is left at the end.

    python scripts/kill_test.py --kills 60
    python scripts/kill_test.py --kills 0 --scheduler-kills 20
    python scripts/kill_test.py --kills 5 --replica-kills 20 --lines 600 --replicas 2

One run without disturbance gives the answers to compare with. Then the job is started and killed: the whole
job by killing its first process, which is then started again, or only SGLang's scheduler or a replica on Ray,
without which it has to go on; until as many kills have met it. When it ends by itself before, its results are
checked and thrown away. Every start takes as long as the
engine needs, on the CPU about a minute. Prints one JSON object; the exit code says whether all was right.

Checked are: each custom_id has exactly one record and each line of the output is whole; answers equal those
of the undisturbed run (temperature 0, float32); some seconds after a kill no process of the job is left,
of Ray's own two idle helpers a minute.
Flags that this script does not know are passed on to the job.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

MARK = "SGLANG_BLEND_KILL_TEST"
# What processes call themselves.
TITLES = {"scheduler": b"sglang::scheduler", "replica": b"ray::ReplicaWorker"}
ORPHAN_PATIENCE_S = 20.0
# Two helpers of the Ray that a job has started look for its server for a minute before they end.
RAY_AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
RAY_AGENT_PATIENCE_S = 120.0
# Part of the kills that come at any time from the start on; the others wait for a number of answers.
ANY_MOMENT_RATIO = 0.3


def main() -> int:
    """Run it; 0 when nothing was lost, doubled, changed or left behind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--kills", type=int, default=60, help="of the job's first process (default: 60)")
    parser.add_argument("--scheduler-kills", type=int, default=0, help="of SGLang's scheduler (default: 0)")
    parser.add_argument(
        "--replica-kills", type=int, default=0, help="of actors, with --replicas (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as directory:
        kills = {"job": args.kills, "scheduler": args.scheduler_kills, "replica": args.replica_kills}
        result = KillTest(Path(directory), args.lines, flags, random.Random(args.seed)).run(kills)
    sys.stdout.write(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode() + "\n")
    wrong = ("lost", "doubled", "torn_lines", "different_answers", "orphans")
    return 1 if any(result[name] for name in wrong) else 0


class KillTest:
    """One batch file, its undisturbed answers, and the counts of what went wrong."""

    def __init__(self, directory: Path, num_lines: int, flags: Sequence[str], rng: random.Random) -> None:
        self._batch = directory / "batch.jsonl"
        self._flags = flags
        self._rng = rng
        self._ids = [f"request-{i}" for i in range(num_lines)]
        self._batch.write_bytes(b"".join(map(_line, range(num_lines))))
        self._wrong = dict.fromkeys(("lost", "doubled", "torn_lines", "different_answers", "orphans"), 0)
        self._num_checks = 0

    def run(self, kills: dict[str, int]) -> dict[str, Any]:
        """Until so many kills of each kind have met the job at work; then to its end."""
        started = time.monotonic()
        self._run_to_the_end("undisturbed")
        undisturbed_s = time.monotonic() - started
        wanted = self._answers("undisturbed")
        met = dict.fromkeys(kills, 0)
        num_starts = 0
        todo = [target for target, number in kills.items() for _ in range(number)]
        self._rng.shuffle(todo)
        name = "killed"
        job: Job | None = None
        while todo:
            if job is None:
                num_starts += 1
                job = self._start(name)
            target = todo[-1]
            if not self._wait_for_moment(job, name, undisturbed_s):
                self._ended(job, name, wanted)
                job = None
                continue
            if self._kill(job, target):
                met[target] += 1
                todo.pop()
                _say(f"{target} killed, {len(todo)} to go, {self._num_answers(name)} answers")
                if target == "job":
                    job = None
        if job is not None:
            job.process.wait()
        self._run_to_the_end(name)
        self._check(name, wanted)
        return {
            "lines": len(self._ids),
            "kills": met,
            "starts": num_starts,
            "checks": self._num_checks,
            **self._wrong,
            "undisturbed_s": round(undisturbed_s, 1),
            "wall_s": round(time.monotonic() - started, 1),
        }

    def _ended(self, job: Job, name: str, wanted: dict[str, Any]) -> None:
        """The job came to an end: check it, throw its results away, so that the next kill meets work."""
        if job.process.returncode in (0, 1) and self._num_answers(name) == len(self._ids):
            self._check(name, wanted)
            for path in self._batch.parent.glob(f"{name}.*"):
                path.unlink()

    def _wait_for_moment(self, job: Job, name: str, undisturbed_s: float) -> bool:
        """Sleep until the kill is due, by the clock or by the number of answers; False if the job ended."""
        begin = self._num_answers(name)
        wanted = begin + self._rng.randint(1, max(1, (len(self._ids) - begin) // 2))
        deadline = float("inf")
        if self._rng.random() < ANY_MOMENT_RATIO:
            wanted = len(self._ids) + 1
            deadline = time.monotonic() + self._rng.uniform(0, undisturbed_s)
        while time.monotonic() < deadline and self._num_answers(name) < wanted and job.process.poll() is None:
            time.sleep(0.02)
        return job.process.poll() is None

    def _kill(self, job: Job, target: str) -> bool:
        """Returns whether there was something to kill."""
        pids = job.pids()  # also: their sessions are known from here on
        if title := TITLES.get(target):
            titled = [pid for pid in pids if title in _read(f"/proc/{pid}/cmdline")]
            if titled:
                os.kill(self._rng.choice(titled), signal.SIGKILL)
            return bool(titled)
        job.process.kill()
        job.process.wait()
        left = job.wait_until_gone(ORPHAN_PATIENCE_S)
        if left and all(_read(f"/proc/{pid}/cmdline").startswith(RAY_AGENTS) for pid in left):
            left = job.wait_until_gone(RAY_AGENT_PATIENCE_S)
        self._wrong["orphans"] += len(left)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        job.wait_until_gone(ORPHAN_PATIENCE_S)
        return True

    def _start(self, name: str) -> Job:
        return Job(["--file", str(self._batch), "--output", str(self._output(name)), *self._flags])

    def _run_to_the_end(self, name: str) -> None:
        job = self._start(name)
        if job.process.wait() not in (0, 1):
            raise SystemExit(f"the job failed with exit code {job.process.returncode}; its words are above")

    def _check(self, name: str, wanted: dict[str, Any]) -> None:
        lines = self._output(name).read_bytes().splitlines(keepends=True)
        records = []
        for line in lines:
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                self._wrong["torn_lines"] += 1
        ids = [record["custom_id"] for record in records]
        found = self._answers(name)
        self._wrong["doubled"] += len(ids) - len(set(ids))
        self._wrong["lost"] += len(set(self._ids) - set(ids))
        self._wrong["different_answers"] += sum(
            found[i] != wanted[i] for i in self._ids if i in found and i in wanted
        )
        self._num_checks += 1

    def _answers(self, name: str) -> dict[str, Any]:
        """Text or choices of each custom_id."""
        records = map(orjson.loads, self._output(name).read_bytes().splitlines())
        return {r["custom_id"]: [_text(c) for c in r["response"]["body"]["choices"]] for r in records}

    def _num_answers(self, name: str) -> int:
        output = self._output(name)
        return output.read_bytes().count(b"\n") if output.exists() else 0

    def _output(self, name: str) -> Path:
        return self._batch.with_name(f"{name}.output.jsonl")


class Job:
    """`launch_offline` in a session of its own.

    Its processes are those of every session in which one had a mark in its environment; SGLang's write their
    title over theirs, and a process whose parent was killed is known by its session still.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sglang_blend.launch_offline", *arguments],
            env={**os.environ, name: value},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._sessions = {self.process.pid}

    def pids(self) -> list[int]:
        """Of all its processes that still run."""
        session_of = {
            int(name): session
            for name in os.listdir("/proc")
            if name.isdecimal() and (session := _session(name)) is not None
        }
        for pid, session in session_of.items():
            if self._mark.encode() in _read(f"/proc/{pid}/environ"):
                self._sessions.add(session)
        return [pid for pid, session in session_of.items() if session in self._sessions]

    def wait_until_gone(self, patience_s: float) -> list[int]:
        """Those that are left after so long."""
        deadline = time.monotonic() + patience_s
        while (left := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def _line(i: int) -> bytes:
    group = i % 12
    body = {
        "messages": [
            {"role": "system", "content": f"You are assistant number {group}. Answer in few words."},
            {"role": "user", "content": f"Tell me something about the number {i}."},
        ],
        "max_tokens": 8 + i % 9,
        "temperature": 0,
    }
    line = {"custom_id": f"request-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return orjson.dumps(line) + b"\n"


def _text(choice: dict[str, Any]) -> Any:
    return choice["message"]["content"] if "message" in choice else choice["text"]


def _session(pid: str) -> int | None:
    """Session of a process; None for one that is gone or only waits to be collected."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[3]) if len(fields) > 3 and fields[0] != b"Z" else None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
