"""Ray: connecting to it or starting it here, and an actor with its resources for each replica.

    with RayCluster(config, engine_argv) as cluster:
        launch = cluster.launch(slot, supervision)
        facts = await cluster.ready(launch)

Imports Ray when a cluster is made, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.cluster.part_writer import PartsTarget
from sglang_blend.cluster.replica import reason_of
from sglang_blend.cluster.replica_worker import ReplicaWorker
from sglang_blend.cluster.resources import resources_of
from sglang_blend.engine.supervisor import SupervisorConfig
from sglang_blend.errors import ConfigError, EngineError
from sglang_blend.extras import require_extra
from sglang_blend.machine import usable_cores
from sglang_blend.request import EngineFacts

logger = logging.getLogger(__name__)

# How often it is said what a replica waits for.
_REMIND_S = 30.0
_KNOCK_S = 10.0


class Launch(NamedTuple):
    """A replica that was asked for; `launched_at` is of the monotonic clock, `facts` a reference."""

    slot: int
    launched_at: float
    group: Any
    actor: Any
    facts: Any
    parts: PartsTarget | None


class RayCluster:
    """A connection to Ray. A context manager: what it has started there ends with it.

    Attributes:
        dashboard: address of Ray's dashboard; None where there is none.
        is_ours: Ray was started for this job and ends with it.
    """

    def __init__(
        self, config: ClusterConfig, engine_argv: Sequence[str], worker: type[ReplicaWorker]
    ) -> None:
        """Connect, or start Ray on this machine.

        Args:
            worker: what runs in the actors.

        Raises:
            ConfigError: Ray is not installed, the address leads nowhere, or this machine alone has not
                enough for the replicas.
        """
        require_extra("ray", "--replicas")
        import ray

        self._ray = ray
        self._config, self._argv, self._worker = config, list(engine_argv), worker
        self.is_ours = False
        self.dashboard = self._connect()
        self.resources = resources_of(
            engine_argv, ray.cluster_resources(), num_replicas=config.replicas, num_cores=usable_cores()
        )
        self._prompts: tuple[Any, ...] = ()
        if self.is_ours:
            try:
                self._check_this_machine()
            except ConfigError:
                self.close()
                raise

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; Ray that was started here stops."""
        self._ray.shutdown()

    def put_prompts(self, token_ids: Any, offsets: Any) -> int:
        """Put the prompts of the job into the object store, once for all replicas; returns their bytes."""
        self._prompts = self._ray.put(token_ids), self._ray.put(offsets)
        return int(token_ids.nbytes + offsets.nbytes)

    @property
    def prompts(self) -> tuple[Any, ...]:
        """References to the prompts, once they are there."""
        return self._prompts

    def launch(self, slot: int, supervision: SupervisorConfig, parts: PartsTarget | None) -> Launch:
        """Ask for a replica: resources, an actor in them, an engine in that. Waits for nothing.

        Args:
            parts: where it writes its answers; None sends them here.
        """
        group = self._ray.util.placement_group([self.resources.bundle], strategy="STRICT_PACK")
        actor = self._make_actor(slot, group, supervision, parts)
        return Launch(slot, time.monotonic(), group, actor, actor.start.remote(), parts)

    async def ready(self, launch: Launch) -> EngineFacts:
        """Wait until a replica has loaded its model.

        Raises:
            ConfigError: SGLang refuses the flags.
            EngineError: there were no resources in time, or the engine died at its start.
        """
        ray = self._ray
        try:
            await self._wait_for_resources(launch)
            async with asyncio.timeout(max(self._deadline(launch) - time.monotonic(), 1.0)):
                facts: EngineFacts = await launch.facts
                return facts
        except BaseException as e:
            self.release(launch)
            if isinstance(e, TimeoutError):
                raise EngineError(
                    f"replica {launch.slot} did not load its model within {self._config.start_timeout:.0f} s."
                ) from e
            if isinstance(e, ray.exceptions.RayTaskError) and isinstance(e.cause, ConfigError | EngineError):
                raise type(e.cause)(str(e.cause)) from e
            if isinstance(e, ray.exceptions.RayError):
                raise EngineError(f"{reason_of(e)}.") from e
            raise

    def release(self, launch: Launch) -> None:
        """End an actor, and give back its resources."""
        with contextlib.suppress(Exception):  # Ray itself may be gone
            self._ray.kill(launch.actor)
            self._ray.util.remove_placement_group(launch.group)

    def _connect(self) -> str | None:
        ray = self._ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        address = self._config.ray_address or os.environ.get("RAY_ADDRESS")
        if address is None:
            logger.info("No Ray cluster is here; starting Ray for this job.")
            self.is_ours = True
            # Ray would run its workers at the lowest priority, and with them the engines.
            os.environ.setdefault("RAY_worker_niceness", "0")
            with _handlers_kept():
                context = ray.init(address="local", **options)
        else:
            try:
                address = _started_here() if address == "auto" else address
                _knock(address)
                with _handlers_kept():
                    context = ray.init(address=address, **options)
            except Exception as e:  # Ray raises many kinds
                raise ConfigError(
                    f"--ray-address {address}: no Ray cluster answers there ({reason_of(e)}); `ray status` "
                    "on its head node says whether it runs."
                ) from e
        url = getattr(context, "dashboard_url", None)
        return f"http://{url}" if url else None

    def _check_this_machine(self) -> None:
        """Nobody will add a machine to a Ray that was started for this job."""
        missing = self.resources.missing(self._ray.cluster_resources(), self._config.replicas)
        if missing:
            raise ConfigError(
                f"--replicas {self._config.replicas}: {missing}; ask for fewer, or name a Ray cluster with "
                "--ray-address."
            )

    def _deadline(self, launch: Launch) -> float:
        return launch.launched_at + self._config.start_timeout

    async def _wait_for_resources(self, launch: Launch) -> None:
        ready = asyncio.ensure_future(_result(launch.group.ready()))
        try:
            while not ready.done():
                left_s = self._deadline(launch) - time.monotonic()
                if left_s <= 0:
                    free, all_there = self._ray.available_resources(), self._ray.cluster_resources()
                    raise EngineError(
                        f"replica {launch.slot} found no room within {self._config.start_timeout:.0f} s: it "
                        f"needs {self.resources}; of {_amounts(all_there)} in the Ray cluster, "
                        f"{_amounts(free)} are free."
                    )
                done, _ = await asyncio.wait([ready], timeout=min(_REMIND_S, left_s))
                if not done:
                    logger.info(
                        "Replica %d waits for %s; free in the Ray cluster: %s.",
                        launch.slot, self.resources, _amounts(self._ray.available_resources()),
                    )  # fmt: skip
            ready.result()
        finally:
            ready.cancel()

    def _make_actor(
        self, slot: int, group: Any, supervision: SupervisorConfig, parts: PartsTarget | None
    ) -> Any:
        ray = self._ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return (
            ray.remote(self._worker)
            .options(
                num_cpus=self.resources.num_cpus,
                num_gpus=self.resources.num_gpus,
                max_concurrency=1000,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
            )
            .remote(self._argv, supervision, slot=slot, num_threads=self.resources.num_threads, parts=parts)
        )


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts handlers of its own in the place of the job's: with them SIGTERM ends the process on the spot.

    Source: `ray._private.worker.connect`, Ray 2.60.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # nobody else has any
        before = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is not handler:
                signal.signal(signum, handler)


def _started_here() -> str:
    """Address of the cluster that `ray start` made this machine a part of.

    Ray's own `auto` also finds a Ray that another program has started for itself and will stop, and believes
    whoever wrote the note: of a cluster that answers, a job runs what that sends. Source: Ray's
    `ray_current_cluster`, which `ray start` writes and `ray stop` empties.

    Raises:
        OSError: there is none, or somebody else has written the note.
    """
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    with noted.open() as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            raise PermissionError(f"{noted} is not yours: name the cluster's address")
        address = file.read().strip()
    if not address:
        raise FileNotFoundError("`ray start` has not run on this machine")
    return address


def _knock(address: str) -> None:
    """Whether anybody listens at host:port or ray://host:port; Ray itself would ask for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


async def _result(reference: Any) -> Any:
    return await reference


def _amounts(resources: dict[str, float]) -> str:
    """GPUs and CPUs, in words."""
    return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("GPU", "CPU"))
