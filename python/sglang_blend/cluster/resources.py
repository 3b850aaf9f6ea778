"""What a replica asks of Ray, from SGLang's flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_blend.errors import ConfigError

# SGLang's names for the numbers of ranks that multiply.
_PARALLEL = (
    ("--tp-size", "--tp", "--tensor-parallel-size"),
    ("--pp-size", "--pp", "--pipeline-parallel-size"),
    ("--dp-size", "--dp", "--data-parallel-size"),
)
_DP_INSIDE_TP = "--enable-dp-attention"


@dataclass(frozen=True, kw_only=True)
class ReplicaResources:
    """Of one replica, on one machine.

    Attributes:
        num_threads: of each of its processes; None leaves that to SGLang.
    """

    num_gpus: int
    num_cpus: int
    num_threads: int | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """As Ray's placement groups take it."""
        cpus = {"CPU": float(self.num_cpus)}
        return cpus | {"GPU": float(self.num_gpus)} if self.num_gpus else cpus

    def missing(self, available: dict[str, float], num_replicas: int) -> str:
        """What is lacking for so many, in words; empty where nothing is."""
        for name, each in self.bundle.items():
            needed, there = each * num_replicas, available.get(name, 0.0)
            if needed > there:
                return f"they need {needed:g} {name}s ({each:g} each), there are {there:g}"
        return ""

    def __str__(self) -> str:
        return ", ".join(f"{amount:g} {name}" for name, amount in self.bundle.items())


def resources_of(
    engine_argv: Sequence[str], cluster: dict[str, float], *, num_replicas: int, num_cores: int
) -> ReplicaResources:
    """A GPU for each rank and a core beside; where the cluster has no GPU, an equal part of its cores.

    Args:
        engine_argv: SGLang's flags.
        cluster: amounts by name, as Ray tells them.
        num_cores: of this machine; a replica on CPUs gets no more.

    Raises:
        ConfigError: a number of ranks is none, or a replica is to span machines.
    """
    if _count(engine_argv, ("--nnodes",)) > 1:
        raise ConfigError(
            "--nnodes with --replicas: a replica lives on one machine; leave --nnodes out, Ray finds them."
        )
    on_cpu = _value(engine_argv, ("--device",)) == "cpu" or not cluster.get("GPU")
    if on_cpu:
        cores = max(int(cluster.get("CPU", 1)) // num_replicas, 1)
        threads = min(cores, num_cores)
        return ReplicaResources(num_gpus=0, num_cpus=cores, num_threads=threads)
    num_gpus = 1
    for names in _PARALLEL:
        if names[0] == "--dp-size" and _DP_INSIDE_TP in engine_argv:
            continue
        num_gpus *= _count(engine_argv, names)
    return ReplicaResources(num_gpus=num_gpus, num_cpus=1)


def _count(argv: Sequence[str], names: tuple[str, ...]) -> int:
    text = _value(argv, names)
    if text is None:
        return 1
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{names[0]} {text}: a whole number from 1 is allowed.")
    return int(text)


def _value(argv: Sequence[str], names: tuple[str, ...]) -> str | None:
    """The last value given to a flag."""
    found = None
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else argv[place + 1] if place + 1 < len(argv) else None
    return found
