"""A calibrated record: the cost model and the simulator use its rates, and a broken one is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from sglang_blend.cost.hardware import calibrated_file, hardware, hardware_from_dict
from sglang_blend.cost.measured import MeasuredRates
from sglang_blend.cost.of_engine import hardware_of_device
from sglang_blend.cost.roofline import RooflineCost
from sglang_blend.cost.shape_registry import model_shape
from sglang_blend.errors import ConfigError
from sglang_blend.simulate.engine_config import EngineConfig
from sglang_blend.simulate.overlap import choose_overlap
from sglang_blend.simulate.step_time import KvRead, StepTimer

RATES = MeasuredRates(
    gemm_tokens=(1, 256, 4096),
    gemm_flop_per_s=(2e12, 4e14, 7e14),
    prefill_attention_flop_per_s=5e14,
    decode_attention_bytes_per_s=3e12,
    step_overhead_s=0.002,
    sm_shares=(0.12, 0.3, 0.6),
    sm_share_bandwidth=(0.24, 0.6, 1.0),
    contention=1.1,
    gemm_contention=1.2,
)
MACHINE = replace(hardware("H200"), name="mine", measured=RATES)
SHAPE = model_shape("llama-3.1-8b")
COST = RooflineCost(shape=SHAPE, hardware=MACHINE)


def test_linear_layers_take_what_was_measured_at_that_size() -> None:
    """At a measured size the time is FLOP over rate; beyond the last one the best rate holds."""
    for tokens, rate in zip(RATES.gemm_tokens, RATES.gemm_flop_per_s, strict=True):
        assert COST.gemm_s(tokens, 0) == pytest.approx(2 * SHAPE.layer_params * tokens / rate)
        used = SHAPE.layer_params + SHAPE.head_params
        assert COST.gemm_s(tokens, tokens) == pytest.approx(2 * used * tokens / rate)
    assert COST.token_s == pytest.approx(2 * SHAPE.layer_params / 7e14)
    assert COST.decode_token_s == pytest.approx(2 * used / 7e14)
    assert COST.weight_s(1) == pytest.approx(COST.gemm_s(1, 1))


def test_ranks_share_the_measured_work() -> None:
    """Two ranks take half of the time."""
    two = replace(COST, tp_size=2)
    assert two.gemm_s(256, 64) == pytest.approx(COST.gemm_s(256, 64) / 2)
    assert two.kv_read_s[0] == pytest.approx(COST.kv_read_s[0] / 2)


def test_attention_has_rates_of_its_own() -> None:
    """Decode reads KV at the attention's bandwidth, prefill computes at the attention's rate."""
    plain = RooflineCost(shape=SHAPE, hardware=hardware("H200"))
    assert COST.kv_read_s[0] / plain.kv_read_s[0] == pytest.approx(4.3 / 3.0)
    assert COST.pair_s[0] / plain.pair_s[0] == pytest.approx(790 / 500)


def test_mixtures_of_experts_keep_the_roofline() -> None:
    """The curve was measured on dense layers."""
    moe = model_shape("mixtral-8x7b")
    assert RooflineCost(shape=moe, hardware=MACHINE, tp_size=2).gemm_s(64, 0) == pytest.approx(
        RooflineCost(shape=moe, hardware=hardware("H200"), tp_size=2).gemm_s(64, 0)
    )


def test_the_simulator_takes_the_measured_constants() -> None:
    """Overhead, bandwidth of a share and contention come from the record, the rest stays."""
    engine = EngineConfig(mode="pdmux", chunk_tokens=1000).on(MACHINE)
    assert (engine.step_overhead_s, engine.pdmux_contention) == (0.002, 1.1)
    assert engine.pdmux_prefill_contention == 1.2
    assert engine.pdmux_bandwidth_gain == pytest.approx(2.0)
    assert engine.chunk_tokens == 1000
    assert EngineConfig().on(hardware("H200")) == EngineConfig()


def test_each_side_of_a_divided_gpu_has_a_slow_down_of_its_own() -> None:
    """Decode that of attention beside GEMMs, prefill that of GEMMs beside attention."""
    alone = EngineConfig(
        mode="pdmux", step_overhead_s=0.0, pdmux_contention=1.0, pdmux_prefill_contention=1.0
    )
    shared = replace(alone, pdmux_contention=1.1, pdmux_prefill_contention=1.2)
    plain, slowed = StepTimer(COST, alone), StepTimer(COST, shared)
    read = KvRead(100_000, 0, 0, 0)
    assert slowed.muxed_decode_s(64, read, 0.3) == pytest.approx(1.1 * plain.muxed_decode_s(64, read, 0.3))
    assert slowed.muxed_prefill_s(512, 0.1, 0.3) == pytest.approx(1.2 * plain.muxed_prefill_s(512, 0.1, 0.3))


def test_a_calibrated_record_survives_its_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    path = tmp_path / "mine.json"
    path.write_bytes(MACHINE.to_json())
    assert hardware(str(path)) == MACHINE


def test_a_device_that_was_calibrated_is_known_by_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record in the cache comes before the table; without one the table stands."""
    monkeypatch.setenv("SGLANG_BLEND_CACHE", str(tmp_path))
    monkeypatch.delenv("SGLANG_BLEND_HARDWARE", raising=False)
    assert hardware_of_device("NVIDIA H200") == hardware("H200")
    path = calibrated_file("NVIDIA H200")
    path.parent.mkdir()
    path.write_bytes(MACHINE.to_json())
    assert hardware_of_device("NVIDIA H200") == MACHINE
    assert hardware_of_device("NVIDIA H100 80GB HBM3") == hardware("H100")
    monkeypatch.setenv("SGLANG_BLEND_HARDWARE", "none")
    assert hardware_of_device("NVIDIA H200") == hardware("H200")
    monkeypatch.setenv("SGLANG_BLEND_HARDWARE", str(path))
    assert hardware_of_device("NVIDIA H100 80GB HBM3") == MACHINE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gemm_tokens": [256, 1, 4096]}, "ascending"),
        ({"gemm_tokens": [1, 256]}, "differ in length"),
        ({"gemm_flop_per_s": [1, -2, 3]}, "finite numbers above 0"),
        ({"prefill_attention_flop_per_s": "fast"}, "cannot be used|finite"),
        ({"speed": 3}, "unknown key 'speed'"),
        ({"overlap": "pdmux"}, "none and mixed"),
    ],
)
def test_a_broken_record_is_refused_in_a_sentence(change: Any, words: str) -> None:
    """The key at fault is named."""
    record = orjson.loads(MACHINE.to_json())
    record["measured"] |= change
    with pytest.raises(ConfigError, match=words):
        hardware_from_dict(record)
    with pytest.raises(ConfigError, match="measured is 3"):
        hardware_from_dict(record | {"measured": 3})


@pytest.mark.slow
def test_auto_takes_mixed_chunk_only_where_it_gains_more_than_a_prediction_can_tell() -> None:
    """By the rates of a calibrated machine; without them nothing is simulated."""
    choice = choose_overlap(RooflineCost(shape=model_shape("llama-2-7b"), hardware=MACHINE))
    gain = choice.makespan_s["default"] / choice.makespan_s["mixed"]
    assert (choice.mode == "mixed") == (gain > 1.03)
    uncalibrated = choose_overlap(RooflineCost(shape=SHAPE, hardware=hardware("H200")))
    assert (uncalibrated.mode, uncalibrated.makespan_s) == ("default", {})


def test_the_best_fit_of_the_bandwidth_passes_through_shares_that_lack_some() -> None:
    """Shares that reach all of it say only that they are large enough."""
    assert replace(RATES, sm_share_bandwidth=(0.3, 0.75, 1.0)).bandwidth_gain == pytest.approx(2.5)
    assert replace(RATES, sm_shares=(0.5,), sm_share_bandwidth=(1.0,)).bandwidth_gain == pytest.approx(2.0)
    assert replace(RATES, sm_shares=(), sm_share_bandwidth=()).bandwidth_gain is None
    assert RATES.bandwidth_gain is not None
    assert np.isfinite(RATES.bandwidth_gain)
