"""`sglang-blend calibrate` on this machine, with small sizes: the record is possible and goes round."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sglang_blend.cost.hardware import Hardware, hardware_from_dict
from sglang_blend.errors import ConfigError
from srt.cuda_stand_ins import NUM_SMS

# Importing SGLang warns of kernels that this machine lacks.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def _measure(config: dict[str, Any]) -> Hardware:
    import torch

    from sglang_blend.srt.calibration.machine import Sizes, measure

    small = Sizes(gemm_tokens=(1, 128), prompt_len=128, batch_size=4, context_len=256)
    return measure(config, "demo", torch.float32, small)


@pytest.mark.alone
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


def test_a_layer_that_is_measured_is_sglangs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms, rotary embedding and activation in it, and the server arguments of the process restored."""
    import torch
    import torch.nn.functional as F
    from sglang.srt.runtime_context import get_context, publish
    from sglang.srt.server_args import ServerArgs

    from sglang_blend.srt.calibration import layer as layer_module
    from sglang_blend.srt.calibration.layer import LayerShape, _Layer, gemm_flop_per_s

    monkeypatch.setattr(layer_module, "_LEAST_WEIGHT_BYTES", 1)
    shape = LayerShape(hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16)
    before = get_context()._server_args
    rates = gemm_flop_per_s(shape, [1, 32], torch.float32, torch.device("cpu"))
    assert get_context()._server_args is before
    assert len(rates) == 2
    with get_context().preserve_config():
        publish(ServerArgs(model_path="dummy"), role="test")
        layer = _Layer(shape, 32, torch.float32)
    x, residual = torch.randn(2, 5, 64).unbind(0)
    got, rest = layer.forward(torch.zeros(5, dtype=torch.int64), x, residual)
    # At position 0 the rotary embedding turns nothing, and q stands where attention would be.
    first = x + residual
    heads = F.linear(F.rms_norm(first, (64,), eps=1e-6), layer._qkv)[:, :64]
    second = first + F.linear(heads, layer._out)
    gate, up = F.linear(F.rms_norm(second, (64,), eps=1e-6), layer._gate_up).chunk(2, dim=-1)
    torch.testing.assert_close(rest, second)
    torch.testing.assert_close(got, F.linear(F.silu(gate) * up, layer._down))


def test_a_model_without_such_layers_is_refused() -> None:
    """The key that its config lacks is named."""
    with pytest.raises(ConfigError, match="intermediate_size"):
        _measure({"hidden_size": 64, "num_attention_heads": 2})


class _Device:
    """Stands where a GPU does: a decode call takes longer on fewer multiprocessors, and beside GEMMs; they do
    beside it. One side is beside the other from the moment it was called until its stream is waited for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, side_by_side: bool) -> None:
        import torch
        from sglang.srt.multiplex import pdmux_context

        from sglang_blend.srt.calibration import sm_shares

        self.now_ms, self.decode_sms, self.side_by_side = 0.0, NUM_SMS, side_by_side
        self.busy: set[str] = set()
        self.divided: list[tuple[int, int]] = []
        monkeypatch.setattr(sm_shares, "_GEMM_SIZE", 8)
        monkeypatch.setattr(sm_shares, "seconds", self._seconds)
        monkeypatch.setattr(torch, "matmul", self._gemm)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: _Event(self))
        spatial: Any = ModuleType("sgl_kernel.spatial")
        spatial.get_sm_available = lambda gpu: NUM_SMS
        spatial.create_greenctx_stream_by_value = self._divide
        kernels: Any = ModuleType("sgl_kernel")
        kernels.spatial = spatial
        monkeypatch.setitem(sys.modules, "sgl_kernel", kernels)
        monkeypatch.setitem(sys.modules, "sgl_kernel.spatial", spatial)
        self.offered = pdmux_context.divide_sm(NUM_SMS, (9, 0), 6)

    def decode(self, batch_size: int, context_len: int) -> None:
        self._call("decode", max(NUM_SMS / 3 / self.decode_sms, 1.0), 1.25)

    def _gemm(self, a: Any, b: Any) -> None:
        self._call("gemm", 0.2, 1.1)

    def _call(self, kind: str, alone_ms: float, slow_down: float) -> None:
        self.now_ms += alone_ms * (slow_down if self.busy - {kind} else 1.0)
        self.busy.add(kind)

    def _seconds(self, call: Callable[[], None], device: Any) -> float:
        before = self.now_ms
        call()
        self.busy.clear()
        return (self.now_ms - before) / 1e3

    def _divide(self, prefill_sms: int, decode_sms: int, gpu: int) -> tuple[Any, Any]:
        self.divided.append((prefill_sms, decode_sms))
        self.decode_sms = decode_sms
        stream = SimpleNamespace(query=lambda: not self.side_by_side, synchronize=self.busy.clear)
        return stream, stream


class _Event:
    def __init__(self, device: _Device) -> None:
        self._device = device

    def record(self) -> None:
        self._at_ms = self._device.now_ms

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return end._at_ms - self._at_ms


def test_the_divisions_that_sglang_offers_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode attention needs a third of the multiprocessors and is a quarter slower beside GEMMs, which are a
    tenth slower beside it.
    """
    import torch

    from sglang_blend.srt.calibration.sm_shares import measure_sm_shares

    device = _Device(monkeypatch, side_by_side=True)
    found = measure_sm_shares(device, 8, 64, torch.device("cpu"))
    assert device.divided == device.offered
    assert found.shares == [decode / NUM_SMS for _, decode in device.offered]
    assert found.bandwidth == pytest.approx([min(3 * share, 1.0) for share in found.shares])
    assert found.contention == pytest.approx([1.25] * len(found.shares))
    assert found.gemm_contention == pytest.approx([1.1] * len(found.shares))


def test_a_device_that_runs_nothing_side_by_side_ends_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rather than multiplying matrices for ever."""
    import torch

    from sglang_blend.srt.calibration.sm_shares import measure_sm_shares

    device = _Device(monkeypatch, side_by_side=False)
    with pytest.raises(RuntimeError, match="do not run side by side"):
        measure_sm_shares(device, 8, 64, torch.device("cpu"))
