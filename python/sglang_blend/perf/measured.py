"""Measured kernel times, which take precedence over the roofline.

`read_mlp_profile(path, tp_size)` turns a profile of one layer's kernels by token count (the CSV form of
Vidur's data/profiling/compute) into a `GemmCurve`: seconds of all linear layers for a step of n tokens.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sglang_blend.errors import ConfigError
from sglang_blend.perf.arrays import FloatArray

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
