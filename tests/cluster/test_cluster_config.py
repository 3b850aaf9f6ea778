"""Options of a job on several engines."""

from __future__ import annotations

import argparse

import pytest

from sglang_blend.cluster.cluster_config import ClusterConfig
from sglang_blend.errors import ConfigError


def parsed(*flags: str) -> ClusterConfig | None:
    parser = argparse.ArgumentParser()
    ClusterConfig.add_cli_args(parser)
    return ClusterConfig.from_cli_args(parser.parse_args(flags))


def test_without_replicas_there_is_no_cluster() -> None:
    assert parsed() is None


def test_what_is_given_is_taken() -> None:
    config = parsed("--replicas", "4", "--ray-address", "auto", "--replica-start-timeout", "60")
    assert config == ClusterConfig(replicas=4, ray_address="auto", start_timeout=60.0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--replicas", "0"), "--replicas 0: at least one"),
        (("--ray-address", "auto"), "--ray-address auto needs --replicas"),
        (("--replicas", "2", "--replica-start-timeout", "0"), "--replica-start-timeout 0.0"),
        (("--replicas", "2", "--replica-start-timeout", "nan"), "--replica-start-timeout nan"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parsed(*flags)
