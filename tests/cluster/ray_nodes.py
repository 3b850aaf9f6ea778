"""A job on a Ray cluster of several nodes of this machine, of which one dies: `python ray_nodes.py BATCH`.

Prints the summary. The replacement of the lost replica finds no room until another node comes. Answers are
held until it is there, so that there is work left for it however slow the machine is.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.ray_job import WordWorker
from cluster.words import HELD_BY, WordPreparer
from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.cluster_engine import ClusterEngine
from sglang_blend.config import JobConfig
from sglang_blend.console import log_to_stderr
from sglang_blend.job.offline import OfflineJob


def main() -> None:
    path = Path(sys.argv[1])
    held = path.with_suffix(".held")
    os.environ[HELD_BY] = str(held)
    log_to_stderr("info")
    # Ray's hooks for its end need the main thread, and a node is added by another one.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=False)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    job = OfflineJob(JobConfig(file=path, window=16, order="dfs"))
    engines: list[ClusterEngine] = []
    held.touch()

    def wait_for_replicas() -> None:
        while not engines or len(engines[0]._fleet.ready()) < 2:
            time.sleep(0.1)

    def lose_one() -> None:
        wait_for_replicas()
        cluster.remove_node(nodes[1], allow_graceful=False)
        while not engines[0].num_restarts:
            time.sleep(0.1)
        cluster.add_node(num_cpus=1)
        wait_for_replicas()
        held.unlink()

    threading.Thread(target=lose_one, daemon=True).start()

    def start() -> ClusterEngine:
        config = ClusterConfig(replicas=2, ray_address=cluster.address)
        engines.append(ClusterEngine([], config, WordPreparer, worker=WordWorker))
        return engines[0]

    try:
        summary: Any = job.run(start)
        said = {"summary": summary.to_json(), **engines[0].record()}
        sys.stdout.write("\n" + orjson.dumps(said, default=str).decode())
        sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
