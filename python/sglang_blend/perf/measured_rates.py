"""What a calibration found out about a machine beyond two rates: part of a hardware record.

The cost model takes its GEMM times from the curve and both attentions at their own rates; the simulator its
constants by `EngineConfig.on`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from sglang_blend.errors import ConfigError


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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "model":
                continue
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in numbers):
                raise ConfigError(
                    f"measured rates: {field.name} is {value!r}, allowed are finite numbers above 0; "
                    "calibrate again."
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
