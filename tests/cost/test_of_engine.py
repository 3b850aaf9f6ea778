"""What a driver calls a device, and the hardware record that is planned with."""

import logging
from typing import Any

import pytest

from sglang_blend.cost.of_engine import cost_of_engine, hardware_of_device
from sglang_blend.cost.shape_registry import CONFIGS


@pytest.mark.parametrize(
    ("device_name", "record"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100-PCIE-40GB", "A100-40"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("AMD Instinct MI300X", "MI300X"),
        ("cpu", "cpu"),
    ],
)
def test_a_device_is_known_by_its_drivers_name(device_name: str, record: str) -> None:
    assert hardware_of_device(device_name).name == record


def test_an_unknown_device_is_planned_as_another_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert hardware_of_device("Strange 9000").name == "H100"
    assert "Strange 9000" in caplog.text


@pytest.mark.parametrize(
    ("name", "part"),
    [("auto", 1), ("bfloat16", 1), ("fp8_e5m2", 1 / 2), ("mxfp8", 1 / 2), ("nvfp4", 1 / 4), ("new", 1)],
)
def test_a_smaller_kv_cache_is_read_in_less_time(name: str, part: float) -> None:
    """By the names that SGLang has for its dtypes."""

    def read_s(**dtype: Any) -> float:
        cost = cost_of_engine(CONFIGS["llama-3-8b"], "NVIDIA H200", tp_size=1, kv_pool_tokens=9999, **dtype)
        assert cost is not None
        return cost.kv_read_s[0]

    assert read_s(kv_cache_dtype=name) == pytest.approx(part * read_s())
