"""`sglang-blend calibrate` on this machine, with small sizes: the record is possible and goes round."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sglang_blend.errors import ConfigError
from sglang_blend.perf.hardware import Hardware, hardware_from_dict

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def _measure(config: dict[str, Any]) -> Hardware:
    import torch

    from sglang_blend.srt.calibration.machine import Sizes, measure

    small = Sizes(gemm_tokens=(1, 128), prompt_len=128, batch_size=4, context_len=256)
    return measure(config, "demo", torch.float32, small)


def test_a_cpu_is_measured_in_seconds_and_its_record_can_be_read() -> None:
    """Larger steps reach more FLOP a second; there are no multiprocessors to divide."""
    from sglang_blend.demo_model import demo_model_path

    config = json.loads((demo_model_path() / "config.json").read_bytes())
    record = _measure(config)
    assert hardware_from_dict(json.loads(record.to_json())) == record
    assert record.name == "cpu"
    assert record.measured is not None
    one, many = record.measured.gemm_flop_per_s
    assert many > 2 * one
    assert record.measured.sm_shares == ()
    # Attention gathers KV before it reads it: a copy of the same bytes is faster.
    assert record.measured.decode_attention_bytes_per_s < record.effective_bytes_per_s


def test_a_model_without_such_layers_is_refused() -> None:
    """The key that its config lacks is named."""
    with pytest.raises(ConfigError, match="intermediate_size"):
        _measure({"hidden_size": 64, "num_attention_heads": 2})
