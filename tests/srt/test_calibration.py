"""`sglang-blend calibrate` on this machine, with small sizes: the record is possible and goes round."""

import json

import pytest
import torch

from sglang_blend.demo_model import demo_model_path
from sglang_blend.errors import ConfigError
from sglang_blend.perf.hardware import hardware_from_dict
from sglang_blend.srt.calibration.machine import Sizes, measure

SMALL = Sizes(gemm_tokens=(1, 128), prompt_len=128, batch_size=4, context_len=256)


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks what a CPU gives")
def test_a_cpu_is_measured_in_seconds_and_its_record_can_be_read():
    """Larger steps reach more FLOP a second; there are no multiprocessors to divide."""
    config = json.loads((demo_model_path() / "config.json").read_bytes())
    record = measure(config, "demo", torch.float32, SMALL)
    assert hardware_from_dict(json.loads(record.to_json())) == record
    assert record.name == "cpu"
    assert record.measured is not None
    one, many = record.measured.gemm_flop_per_s
    assert many > 2 * one
    assert record.measured.sm_shares == ()
    # Attention gathers KV before it reads it: a copy of the same bytes is faster.
    assert record.measured.decode_attention_bytes_per_s < record.effective_bytes_per_s


def test_a_model_without_such_layers_is_refused():
    """The key that its config lacks is named."""
    with pytest.raises(ConfigError, match="intermediate_size"):
        measure({"hidden_size": 64, "num_attention_heads": 2}, "odd", torch.float32, SMALL)
