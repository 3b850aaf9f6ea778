"""Runs a job again and again and kills it with SIGKILL at random moments, then lets it end.

    python killed_job.py BATCH NUM_KILLS

Forks, so that a run costs no imports. Whenever a job ends by itself before its kill, its results are checked
for repeated custom_ids and thrown away, and the next job begins. Prints kills and runs.
"""

import asyncio
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from job.echo_engine import EchoEngine
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.engine.messages import Ask
from sglang_blend.job.offline import OfflineJob
from sglang_blend.request import Answer, Failure


class SlowEcho(EchoEngine):
    """Takes a while, so that most kills meet it at work."""

    async def answer(self, ask: Ask) -> Answer | Failure:
        await asyncio.sleep(0.001)
        return await super().answer(ask)


def run(config: JobConfig) -> None:
    OfflineJob(config).run(SlowEcho)


def in_child(config: JobConfig, kill_after_s: float | None) -> bool:
    """Run the job in a forked child; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(config)
            status = 0
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the job failed"
    return False


def main() -> None:
    path, num_kills = Path(sys.argv[1]), int(sys.argv[2])
    config = JobConfig(file=path, window=8, fsync_interval=0.01)
    rng = random.Random(0)
    num_killed = num_runs = 0
    anew = False
    while num_killed < num_kills:
        num_runs += 1
        killed = in_child(replace(config, overwrite=anew), rng.uniform(0, 0.15))
        num_killed += killed
        anew = not killed
        if not killed:
            output = resolve_files(config).output
            assert isinstance(output, Path)
            lines = output.read_bytes().splitlines()
            assert len({line.split(b'"custom_id":')[1].split(b",")[0] for line in lines}) == len(lines)
    assert not in_child(replace(config, overwrite=anew), None)
    print(num_killed, num_runs + 1)


main()
