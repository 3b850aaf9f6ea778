"""Measured kernel times, which take precedence over the roofline.

`read_mlp_profile(path, tp_size)` turns a profile of one layer's kernels by token count (the CSV form of
Vidur's data/profiling/compute) into a `GemmCurve`: seconds of all linear layers for a step of n tokens.

`MeasuredRates` is what a calibration found out about a machine beyond two rates, part of a hardware record:
the cost model takes its GEMM times from the curve and both attentions at their own rates, the simulator its
constants by `EngineConfig.on`.
"""

from __future__ import annotations

import csv
import gzip
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sglang_blend.core.cost_model import FloatArray
from sglang_blend.errors import ConfigError

# Kernels whose time counts as compute of a step; attention itself is not in such a profile.
_KERNELS = (
    "attn_pre_proj", "attn_rope", "attn_post_proj", "mlp_up_proj", "mlp_act", "mlp_down_proj",
    "input_layernorm", "post_attention_layernorm", "add",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GemmCurve:
    """Seconds of one layer's linear kernels by tokens in the step, from measurements.

    Attributes:
        num_tokens: (k,) float64, ascending.
        layer_s: (k,) float64, seconds of one layer.
        source: the file it came from.
    """

    num_tokens: FloatArray
    layer_s: FloatArray
    source: str

    def __post_init__(self) -> None:
        if self.num_tokens.size < 2 or np.any(np.diff(self.num_tokens) <= 0) or np.any(self.layer_s <= 0):
            raise ConfigError(
                f"profile {self.source!r} needs at least two token counts with times above 0; profile again."
            )

    def seconds(self, num_tokens: float) -> float:
        """One layer's time at `num_tokens`: interpolated inside, the last point's rate beyond, flat below
        the first.
        """
        last = float(self.num_tokens[-1])
        if num_tokens > last:
            return float(self.layer_s[-1]) * num_tokens / last
        return float(np.interp(num_tokens, self.num_tokens, self.layer_s))

    @property
    def token_s(self) -> float:
        """Seconds per token of one layer where the curve is steepest-efficient (its best rate): the
        compute-bound limit.
        """
        return float(np.min(self.layer_s / self.num_tokens))

    @property
    def floor_s(self) -> float:
        """Seconds of one layer for the smallest step: the time to read the weights once."""
        return float(np.min(self.layer_s))


def read_mlp_profile(path: Path, *, tp_size: int = 1) -> GemmCurve:
    """Reads a Vidur-like mlp.csv (plain or gzip) for one tensor-parallel degree.

    Args:
        path: the CSV; needs `num_tokens`, `num_tensor_parallel_workers` and
            `time_stats.<kernel>.median` in ms.
        tp_size: which rows to keep.

    Returns:
        The curve of one layer; times at equal token counts are averaged.

    Raises:
        ConfigError: unreadable, a column missing, or no row for `tp_size`.
    """
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise ConfigError(
            f"profile {str(path)!r} cannot be read ({error}); give a CSV of kernel times."
        ) from error
    columns = [f"time_stats.{kernel}.median" for kernel in _KERNELS]
    wanted = [*columns, "num_tokens", "num_tensor_parallel_workers"]
    missing = [name for name in wanted if not rows or name not in rows[0]]
    if missing:
        raise ConfigError(
            f"profile {str(path)!r} lacks the column {missing[0]!r}; needed are {', '.join(wanted)}."
        )
    degrees = sorted({int(row["num_tensor_parallel_workers"]) for row in rows})
    if tp_size not in degrees:
        raise ConfigError(f"profile {str(path)!r} has no rows for tp_size {tp_size}; allowed are {degrees}.")
    chosen = [row for row in rows if int(row["num_tensor_parallel_workers"]) == tp_size]
    try:
        tokens = np.array([float(row["num_tokens"]) for row in chosen])
        layer = np.array([sum(float(row[name] or "nan") for name in columns) for row in chosen]) * 1e-3
    except ValueError as error:
        raise ConfigError(
            f"profile {str(path)!r} holds a value that is no number ({error}); profile again."
        ) from error
    keep = np.isfinite(layer)
    unique, inverse = np.unique(tokens[keep], return_inverse=True)
    mean = np.bincount(inverse, weights=layer[keep]) / np.bincount(inverse)
    return GemmCurve(num_tokens=unique, layer_s=mean, source=path.name)


@dataclass(frozen=True, kw_only=True)
class MeasuredRates:
    """Rates of one accelerator, or of all usable cores of a CPU.

    Attributes:
        gemm_tokens: ascending token counts of a step.
        gemm_flop_per_s: FLOP of a decoder layer's linear layers over the time of the whole layer without
            attention, at each of them; the time of reading the weights is in it.
        prefill_attention_flop_per_s: causal attention of one long prompt, its masked half not counted.
        decode_attention_bytes_per_s: KV read by the attention of one decode step.
        model: whose layers were run, and in which dtype.
        step_overhead_s: of a step beside its kernels; None keeps the simulator's.
        sm_shares: shares of the multiprocessors that decode attention ran on; empty where a device cannot be
            divided.
        sm_share_bandwidth: bandwidth there over that on the whole device, 0 to 1.
        contention: slow-down of decode attention beside GEMMs on the other multiprocessors, from 1; None
            where it was not measured.
        gemm_contention: the same of GEMMs beside decode attention.
        overlap: what `--overlap auto` takes here, "none" or "mixed", as simulated with these rates; empty
            where that was not asked.
    """

    gemm_tokens: tuple[float, ...]
    gemm_flop_per_s: tuple[float, ...]
    prefill_attention_flop_per_s: float
    decode_attention_bytes_per_s: float
    model: str = ""
    step_overhead_s: float | None = None
    sm_shares: tuple[float, ...] = ()
    sm_share_bandwidth: tuple[float, ...] = ()
    contention: float | None = None
    gemm_contention: float | None = None
    overlap: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("model", "overlap"):
                continue
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in numbers):
                raise ConfigError(
                    f"measured rates: {field.name} is {value!r}, allowed are finite numbers above 0; "
                    "calibrate again."
                )
        if self.overlap not in ("", "none", "mixed"):
            raise ConfigError(
                f"measured rates: overlap is {self.overlap!r}, allowed are none and mixed; calibrate again."
            )
        if len(self.gemm_tokens) < 2 or list(self.gemm_tokens) != sorted(set(self.gemm_tokens)):
            raise ConfigError(
                f"measured rates: gemm_tokens is {self.gemm_tokens}; two or more ascending token counts are "
                "allowed; calibrate again."
            )
        for one, other in (("gemm_tokens", "gemm_flop_per_s"), ("sm_shares", "sm_share_bandwidth")):
            if len(getattr(self, one)) != len(getattr(self, other)):
                raise ConfigError(f"measured rates: {one} and {other} differ in length; calibrate again.")

    @property
    def bandwidth_gain(self) -> float | None:
        """g of `min(1, g x)`, the part of the bandwidth that decode reaches on a share x of the device.

        The best fit through the shares that do not reach all of it; None without measurements.
        """
        if not self.sm_shares:
            return None
        points = [p for p in zip(self.sm_shares, self.sm_share_bandwidth, strict=True) if p[1] < 0.95]
        if not points:
            return 1.0 / min(self.sm_shares)
        return sum(x * y for x, y in points) / sum(x * x for x, _ in points)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_json` takes them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: object) -> MeasuredRates | None:
        """Of a hardware record's `measured`, which may be missing.

        Raises:
            ConfigError: not an object, unknown or missing keys, or values of a wrong type.
        """
        if record is None:
            return None
        known = [field.name for field in fields(cls)]
        if not isinstance(record, dict) or (unknown := sorted(set(record) - set(known))):
            what = f"has the unknown key {unknown[0]!r}" if isinstance(record, dict) else f"is {record!r}"
            raise ConfigError(f"hardware record: measured {what}; allowed are {', '.join(known)}.")
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
        try:
            return cls(**values)  # type: ignore[arg-type]  # __post_init__ looks at the values
        except TypeError as error:
            raise ConfigError(
                f"hardware record: measured cannot be used ({error}); calibrate again."
            ) from error
