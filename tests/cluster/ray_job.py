"""A job on a real Ray of this machine, with engines that answer by words: `python ray_job.py BATCH KILLS
[sharded] [SIGTERM]`.

KILLS actors are killed with SIGKILL while it runs; with the name of a signal it gets that itself after 200
answers. Prints the summary and what the job says of its replicas.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.words import SlowWords, WordPreparer
from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.cluster_engine import ClusterEngine
from sglang_blend.cluster.replica_worker import AnsweringEngine, ReplicaWorker
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.console import log_to_stderr
from sglang_blend.engine.supervisor import SupervisorConfig
from sglang_blend.job.offline import OfflineJob
from sglang_blend.job.result_file import parts_folder
from sglang_blend.job.stop import Stop


class WordWorker(ReplicaWorker):
    """A replica that answers by words."""

    @staticmethod
    def make_engine(
        argv: Sequence[str], log: Path, steps_file: Path, supervision: SupervisorConfig
    ) -> AnsweringEngine:
        return SlowWords()


def num_answers(output: Path) -> int:
    """In one file, or in parts."""
    parts = parts_folder(output)
    assert isinstance(parts, Path)
    places = [output, *parts.glob("[0-9]*.jsonl")]
    return sum(place.read_bytes().count(b"\n") for place in places if place.exists())


def kill_actors(output: Path, num_kills: int) -> None:
    """Each when some more answers are there."""
    for number in range(num_kills):
        while num_answers(output) < 100 * (number + 1):
            time.sleep(0.01)
        actors = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.name().startswith("ray::WordWorker")
            or (process.cmdline() or [""])[0].startswith("ray::WordWorker")
        ]
        os.kill(actors[number % len(actors)].pid, signal.SIGKILL)


def stop_itself(output: Path, signum: signal.Signals) -> None:
    while num_answers(output) < 200:
        time.sleep(0.01)
    os.kill(os.getpid(), signum)


def main() -> None:
    path, num_kills = Path(sys.argv[1]), int(sys.argv[2])
    log_to_stderr("info")
    is_sharded = "sharded" in sys.argv[3:]
    signals = [signal.Signals[name] for name in sys.argv[3:] if name.startswith("SIG")]
    config = JobConfig(file=path, window=16, order="dfs", sharded_output=is_sharded)
    output = resolve_files(config).output
    assert isinstance(output, Path)
    killer = threading.Thread(target=kill_actors, args=(output, num_kills), daemon=True)
    killer.start()
    for signum in signals:
        threading.Thread(target=stop_itself, args=(output, signum), daemon=True).start()
    engines: list[ClusterEngine] = []

    def start() -> ClusterEngine:
        engines.append(
            ClusterEngine(
                [],
                ClusterConfig(replicas=2),
                WordPreparer,
                parts_folder=parts_folder(output) if is_sharded else None,
                part_interval_s=0.3,
                worker=WordWorker,
            )
        )
        return engines[0]

    with Stop() as stop:
        summary: Any = OfflineJob(config, stop).run(start)
    killer.join(timeout=1)
    said = {"summary": summary.to_json(), "all_killed": not killer.is_alive(), **engines[0].record()}
    # Ray writes to this stream too, when it hears of a death.
    sys.stdout.write("\n" + orjson.dumps(said, default=str).decode())


if __name__ == "__main__":
    main()
