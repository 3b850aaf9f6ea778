"""The engine of a job on replicas: `engine.protocol.Engine` on Ray.

Requests are prepared by the driver, while the replicas load their models; then the driver plans, cuts and
feeds (`feeder`), and a `Fleet` keeps the replicas at their number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.feeder import ClusterFeeder
from sglang_blend.cluster.fleet import Fleet
from sglang_blend.cluster.part_writer import PART_INTERVAL_S, PartsTarget, next_launch
from sglang_blend.cluster.ray_cluster import Launch, RayCluster
from sglang_blend.cluster.replica import RayReplica
from sglang_blend.cluster.replica_worker import ReplicaWorker
from sglang_blend.core import RequestTable
from sglang_blend.engine.supervisor import SupervisorConfig
from sglang_blend.errors import EngineError
from sglang_blend.job.parts import new_run
from sglang_blend.jsonl import BoundedLines
from sglang_blend.location import Location
from sglang_blend.request import BatchLine, EngineFacts, Prepared, Rejection

logger = logging.getLogger(__name__)


class Preparing(Protocol):
    """`engine.prepare_pool.Preparer`, or what stands for it in a test."""

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """See `engine.protocol.Engine`."""

    def close(self) -> None:
        """End it; more than once does no harm."""


class ClusterEngine:
    """See the module. A context manager: no process is left behind, here or elsewhere."""

    def __init__(
        self,
        engine_argv: Sequence[str],
        config: ClusterConfig,
        start_preparer: Callable[[], Preparing],
        *,
        stats_file: Path | None = None,
        supervision: SupervisorConfig | None = None,
        parts_folder: Location | None = None,
        part_interval_s: float = PART_INTERVAL_S,
        worker: type[ReplicaWorker] = ReplicaWorker,
    ) -> None:
        """Connect to Ray, ask it for the replicas, and start what prepares requests here.

        Args:
            engine_argv: SGLang's server flags, of every replica.
            start_preparer: called once Ray is there.
            stats_file: where it is written what the schedulers of replica 0 do; `.1`, `.2` and so on are the
                others'. None for nowhere.
            parts_folder: where the replicas write their answers, each in parts of its own; None lets this
                process write them.
            part_interval_s: how long an answer may wait for its part.
            worker: what runs in the actors.

        Raises:
            ConfigError: Ray is missing or not reachable, or has not what the replicas need.
            EngineError: a process died on the way.
        """
        self._config = config
        self._supervision = supervision or SupervisorConfig()
        self._stats_file = stats_file
        self._parts_folder, self._part_interval_s = parts_folder, part_interval_s
        self._parts_run = new_run()
        self._next_launch = 1 if parts_folder is None else next_launch(parts_folder)
        self._steps: dict[int, BoundedLines] = {}
        self._facts: EngineFacts  # set by __aenter__
        self._feeder: ClusterFeeder | None = None
        self._replicas: list[RayReplica] = []  # all that ever were, for their counters
        self._num_prompt_bytes = 0
        self._launched: dict[int, Launch] = {}  # the first of each place, until somebody waits for it
        self._cluster = RayCluster(config, engine_argv, worker)
        if self._cluster.dashboard:
            logger.info("Ray's dashboard: %s", self._cluster.dashboard)
        self._fleet = Fleet(config.replicas, self._start_replica, max_restarts=self._supervision.max_restarts)
        try:
            for slot in range(config.replicas):
                self._launched[slot] = self._launch(slot)
            self._preparer = start_preparer()
        except BaseException:
            self._cluster.close()
            raise

    @property
    def num_restarts(self) -> int:
        """Of replicas, and of the engines inside them."""
        return self._fleet.num_restarts + sum(replica.num_restarts for replica in self._replicas)

    @property
    def num_retries(self) -> int:
        """Requests sent again because a replica or its engine died."""
        of_places = 0 if self._feeder is None else self._feeder.num_retries
        return of_places + sum(replica.num_retries for replica in self._replicas)

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._preparer.close()
        self._cluster.close()

    async def __aenter__(self) -> ClusterEngine:
        self._preparer.close()  # its memory and cores are the replicas' where they are on this machine
        await self._fleet.__aenter__()
        self._facts = self._fleet.ready()[0].facts._replace(num_replicas=self._config.replicas)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._fleet.__aexit__(*exc)
        for file in self._steps.values():
            file.close()

    def prepare(self, lines: Iterable[BatchLine]) -> Iterator[tuple[BatchLine, Prepared | Rejection]]:
        """See `engine.protocol.Engine`."""
        return self._preparer.prepare(lines)

    def facts(self) -> EngineFacts:
        """Those of the first replica that was ready, and how many there are to be."""
        return self._facts

    def feeder(self, table: RequestTable, window: int) -> ClusterFeeder:
        """See `engine.protocol.Engine`."""
        self._num_prompt_bytes = self._cluster.put_prompts(table.token_ids.view(np.ndarray), table.offsets)
        self._feeder = ClusterFeeder(self._fleet, window)
        return self._feeder

    def record(self) -> dict[str, Any]:
        """See `engine.protocol.Engine`."""
        if self._feeder is None:
            return {}
        sent = sum(replica.num_sent_bytes for replica in self._replicas)
        received = sum(replica.num_received_bytes for replica in self._replicas)
        return {
            "cluster": {
                "replicas": self._config.replicas,
                "resources": str(self._cluster.resources),
                "prompt_bytes": self._num_prompt_bytes,
                "sent_bytes": sent,
                "received_bytes": received,
                **self._feeder.record(),
            }
        }

    async def server_info(self) -> list[dict[str, Any]]:
        """Of all schedulers of all replicas."""
        states = await asyncio.gather(*(replica.server_info() for replica in self._ready()))
        for replica in self._ready():
            with contextlib.suppress(EngineError):
                await replica.fetch_steps()
        return [state for of_replica in states for state in of_replica]

    async def flush_cache(self) -> bool:
        """See `engine.protocol.Engine`."""
        return all(await asyncio.gather(*(replica.flush_cache() for replica in self._ready())))

    def _ready(self) -> list[RayReplica]:
        return [replica for replica in self._fleet.ready() if isinstance(replica, RayReplica)]

    def _launch(self, slot: int) -> Launch:
        parts = None
        if self._parts_folder is not None:
            parts = PartsTarget(self._parts_folder, self._next_launch, self._parts_run, self._part_interval_s)
            self._next_launch += 1
        return self._cluster.launch(slot, self._supervision, parts)

    async def _start_replica(self, slot: int) -> RayReplica:
        """For the fleet."""
        launch = self._launched.pop(slot, None) or self._launch(slot)
        facts = await self._cluster.ready(launch)
        replica = RayReplica(
            launch.actor,
            facts,
            prompts=lambda: self._cluster.prompts,
            parts=launch.parts,
            on_steps=self._steps_of(slot),
            release=lambda: self._cluster.release(launch),
        )
        self._replicas.append(replica)
        return replica

    def _steps_of(self, slot: int) -> Callable[[bytes], None]:
        """Where the steps of a place go, of one replica after the other."""
        if self._stats_file is None:
            return lambda steps: None
        if slot not in self._steps:
            path = self._stats_file
            self._steps[slot] = BoundedLines(path if slot == 0 else path.with_name(f"{path.name}.{slot}"))
        return self._steps[slot].append_lines
