"""What a replica asks of Ray follows from SGLang's flags."""

from __future__ import annotations

import pytest

from sglang_blend.cluster.resources import ReplicaResources, resources_of
from sglang_blend.errors import ConfigError

GPUS = {"GPU": 16.0, "CPU": 128.0}


def of(*flags: str, cluster: dict[str, float] = GPUS, num_replicas: int = 2) -> ReplicaResources:
    return resources_of(flags, cluster, num_replicas=num_replicas, num_cores=8)


@pytest.mark.parametrize(
    ("flags", "num_gpus"),
    [
        ((), 1),
        (("--tp-size", "4"), 4),
        (("--tp", "2", "--pp-size", "2"), 4),
        (("--tensor-parallel-size=8",), 8),
        (("--tp-size", "2", "--dp-size", "4"), 8),
        (("--tp-size", "8", "--dp-size", "8", "--enable-dp-attention"), 8),
        (("--tp-size", "2", "--tp-size", "4"), 4),
    ],
)
def test_ranks_multiply(flags: tuple[str, ...], num_gpus: int) -> None:
    assert of(*flags).bundle == {"CPU": 1.0, "GPU": float(num_gpus)}


def test_without_gpus_the_cores_are_divided() -> None:
    resources = of(cluster={"CPU": 8.0}, num_replicas=3)
    assert (resources.num_gpus, resources.num_cpus, resources.num_threads) == (0, 2, 2)
    assert of("--device", "cpu", num_replicas=1).num_gpus == 0


def test_what_is_lacking_is_said() -> None:
    assert of("--tp-size", "8").missing(GPUS, 2) == ""
    assert of("--tp-size", "8").missing(GPUS, 3) == "they need 24 GPUs (8 each), there are 16"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_size_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=f"--tp-size {value}: a whole number from 1"):
        of("--tp-size", value)


def test_a_replica_that_spans_machines_is_refused() -> None:
    with pytest.raises(ConfigError, match="a replica lives on one machine"):
        of("--nnodes", "2")
