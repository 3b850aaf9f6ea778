"""A job on a Ray cluster of several nodes of this machine, of which one dies: `python ray_nodes.py BATCH`.

Prints the summary. The replacement of the lost replica finds no room until another node comes.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import orjson
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.ray_job import WordWorker
from cluster.words import WordPreparer
from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.cluster_engine import ClusterEngine
from sglang_blend.config import JobConfig, resolve_files
from sglang_blend.console import log_to_stderr
from sglang_blend.job.offline import OfflineJob


def main() -> None:
    path = Path(sys.argv[1])
    log_to_stderr("info")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    job = OfflineJob(JobConfig(file=path, window=16, order="dfs"))
    output = resolve_files(JobConfig(file=path)).output
    assert isinstance(output, Path)

    def num_answers() -> int:
        return output.read_bytes().count(b"\n") if output.exists() else 0

    def lose_one() -> None:
        while num_answers() < 200:
            time.sleep(0.01)
        cluster.remove_node(nodes[1], allow_graceful=False)
        while num_answers() < 400:
            time.sleep(0.01)
        cluster.add_node(num_cpus=1)

    threading.Thread(target=lose_one, daemon=True).start()
    engines: list[ClusterEngine] = []

    def start() -> ClusterEngine:
        config = ClusterConfig(replicas=2, ray_address=cluster.address)
        engines.append(ClusterEngine([], config, WordPreparer, worker=WordWorker))
        return engines[0]

    summary: Any = job.run(start)
    said = {"summary": summary.to_json(), **engines[0].record()}
    sys.stdout.write("\n" + orjson.dumps(said, default=str).decode())
    sys.stdout.flush()
    cluster.shutdown()


if __name__ == "__main__":
    main()
