"""A profiler trace is summed up by kind of work, on a device or on a CPU."""

from typing import Any

import pytest

from sglang_blend.bench.trace_summary import kind_of, summarise


def _event(name: Any, ts: Any, dur: Any, cat: Any = "kernel", tid: Any = 1) -> Any:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 0, "tid": tid}


def test_kernels_count_and_gaps_are_idle() -> None:
    """Two streams overlap: both count with their kind, the device is busy once; the host does not count."""
    summary = summarise(
        [
            _event("nvjet_tst_256x128", 0, 400_000),
            _event("BatchDecodeWithPagedKVCacheKernel", 200_000, 400_000, tid=2),
            _event("Memcpy DtoD", 900_000, 100_000, cat="gpu_memcpy"),
            _event("aten::mm", 0, 5_000_000, cat="cpu_op"),
            {"ph": "M", "name": "process_name"},
        ]
    )
    assert summary.on_device
    assert (summary.span_s, summary.busy_s) == (1.0, 0.7)
    assert summary.idle_ratio == pytest.approx(0.3)
    assert summary.kinds == [("linear layers", 0.4), ("attention", 0.4), ("copies and indices", 0.1)]


def test_on_a_cpu_an_operator_counts_without_those_inside_it() -> None:
    """Only of the thread that has most to do."""
    summary = summarise(
        [
            _event("aten::linear", 0, 1_000_000, cat="cpu_op"),
            _event("aten::addmm", 100_000, 600_000, cat="cpu_op"),
            _event("aten::copy_", 150_000, 100_000, cat="cpu_op"),
            _event("aten::silu", 1_500_000, 500_000, cat="cpu_op"),
            _event("aten::mm", 0, 200_000, cat="cpu_op", tid=2),
        ]
    )
    assert not summary.on_device
    assert dict(summary.names) == pytest.approx(
        {"aten::linear": 0.4, "aten::addmm": 0.5, "aten::copy_": 0.1, "aten::silu": 0.5}
    )
    assert (summary.span_s, summary.busy_s) == (2.0, 1.5)


def test_an_empty_trace_has_no_time() -> None:
    """And no division by it."""
    assert summarise([]).idle_ratio == 0.0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16>", "linear layers"),
        ("flashinfer::BatchPrefillWithPagedKVCacheKernel", "attention"),
        ("flashinfer::norm::FusedAddRMSNormKernel", "norm, activation, rotation"),
        ("ncclDevKernel_AllReduce_Sum", "communication"),
        ("aten::argmax", "sampling"),
        ("something", "other"),
    ],
)
def test_names_tell_the_kind(name: str, kind: str) -> None:
    """Of the kernels that SGLang runs."""
    assert kind_of(name) == kind
