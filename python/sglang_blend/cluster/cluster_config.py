"""Config of a job on several engines: defaults and help text live here and nowhere else."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from sglang_blend.errors import ConfigError

DEFAULT_START_TIMEOUT_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How many replicas, and where.

    Attributes:
        replicas: engines that share the job.
        ray_address: of a running Ray cluster, "auto" for the one that this machine belongs to; None starts
            Ray here for the time of the job.
        start_timeout: seconds that a replica may wait for its resources and load its model.
    """

    replicas: int
    ray_address: str | None = None
    start_timeout: float = DEFAULT_START_TIMEOUT_S

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        """Register the options."""
        group = parser.add_argument_group("several engines, on Ray (pip install 'sglang-blend[ray]')")
        group.add_argument(
            "--replicas",
            type=int,
            metavar="N",
            help="share the job among so many engines, each with the GPUs that --tp-size asks for",
        )
        group.add_argument(
            "--ray-address",
            metavar="ADDRESS",
            help="Ray cluster to run on: host:port, ray://host:port, or auto for the one this machine belongs"
            " to (default: Ray is started here and stopped at the end)",
        )
        group.add_argument(
            "--replica-start-timeout",
            type=float,
            metavar="SECONDS",
            default=DEFAULT_START_TIMEOUT_S,
            help="how long a replica may wait for its GPUs and load its model (default: %(default)s)",
        )

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> ClusterConfig | None:
        """Build from parsed options; None where the job has one engine, in this process's care.

        Raises:
            ConfigError: a number is out of range, or an address is given without replicas.
        """
        if args.replicas is None:
            if args.ray_address is not None:
                raise ConfigError(f"--ray-address {args.ray_address} needs --replicas: how many engines?")
            return None
        if args.replicas < 1:
            raise ConfigError(f"--replicas {args.replicas}: at least one engine is needed.")
        if not args.replica_start_timeout > 0:
            raise ConfigError(
                f"--replica-start-timeout {args.replica_start_timeout}: give seconds above 0; "
                f"{DEFAULT_START_TIMEOUT_S:.0f} is usual."
            )
        return cls(
            replicas=args.replicas, ray_address=args.ray_address, start_timeout=args.replica_start_timeout
        )
