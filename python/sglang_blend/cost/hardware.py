"""Accelerators the planner knows: vendor peak beside the rate that real kernels reach.

`hardware("H200")` looks a record up; `hardware_from_file(path)` reads a user's own record (JSON), which is
also what a calibration run writes. Rates are for one accelerator in 16-bit arithmetic, dense (no sparsity).

The record of a calibrated machine lies in `<cache>/hardware/<device>.json`, one a kind of device.
`sglang-blend calibrate` writes it, `of_engine.hardware_of_device` prefers it to the table. The environment
variable SGLANG_BLEND_HARDWARE names another file, as for a container, or is `none`: then the table stands.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import orjson

from sglang_blend.cost.measured import MeasuredRates
from sglang_blend.errors import ConfigError
from sglang_blend.machine import cache_dir

GIB = 2**30

# Ratios for accelerators that our study did not cover: the middle of what it found for compute
# (A100 0.80, H100 0.70, H200 0.80) and for bandwidth (A100 0.86, H100 0.88, H200 0.90).
DERIVED_COMPUTE_RATIO = 0.75
DERIVED_BANDWIDTH_RATIO = 0.87


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One accelerator.

    Attributes:
        name: how users call it.
        peak_flop_per_s: vendor figure, dense 16-bit matrix multiply.
        peak_bytes_per_s: vendor figure, device memory bandwidth.
        effective_flop_per_s: what large GEMMs reach in serving.
        effective_bytes_per_s: what decode attention and weight reads reach.
        memory_bytes: device memory as the driver reports it.
        fp8_speedup: compute rate with 8-bit weights and activations over the 16-bit rate; 1 where absent.
        source: where the vendor figures are from.
        effective_source: where the effective rates are from.
        measured: what `sglang-blend calibrate` found; None takes the effective rates for all.
    """

    name: str
    peak_flop_per_s: float
    peak_bytes_per_s: float
    effective_flop_per_s: float
    effective_bytes_per_s: float
    memory_bytes: float
    fp8_speedup: float = 1.0
    source: str = "user"
    effective_source: str = "user"
    measured: MeasuredRates | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"hardware {self.name!r}: {field.name} is {value}, allowed is a finite number above 0; "
                    "correct the hardware record."
                )
        for kind in ("flop_per_s", "bytes_per_s"):
            peak, effective = getattr(self, f"peak_{kind}"), getattr(self, f"effective_{kind}")
            if effective > peak * 1.001:
                raise ConfigError(
                    f"hardware {self.name!r}: effective_{kind} {effective:.4g} is above peak_{kind} "
                    f"{peak:.4g}, "
                    "which no machine reaches; correct the hardware record."
                )

    def at_peak(self) -> Hardware:
        """The same accelerator with the vendor's peaks as effective rates, as the paper's formulas use
        them.
        """
        return replace(
            self,
            effective_flop_per_s=self.peak_flop_per_s,
            effective_bytes_per_s=self.peak_bytes_per_s,
            effective_source="vendor peak",
            measured=None,
        )

    def to_json(self) -> bytes:
        """The record as JSON; `hardware_from_file` reads it back."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _studied(
    name: str,
    peak: tuple[float, float],
    effective: tuple[float, float],
    gib: float,
    source: str,
    effective_source: str,
    fp8_speedup: float = 1.0,
) -> Hardware:
    return Hardware(
        name=name,
        peak_flop_per_s=peak[0] * 1e12,
        peak_bytes_per_s=peak[1] * 1e12,
        effective_flop_per_s=effective[0] * 1e12,
        effective_bytes_per_s=effective[1] * 1e12,
        memory_bytes=gib * GIB,
        fp8_speedup=fp8_speedup,
        source=source,
        effective_source=effective_source,
    )


def _derived(
    name: str, peak: tuple[float, float], gib: float, source: str, fp8_speedup: float = 1.0
) -> Hardware:
    effective = (peak[0] * DERIVED_COMPUTE_RATIO, peak[1] * DERIVED_BANDWIDTH_RATIO)
    note = f"derived: {DERIVED_COMPUTE_RATIO} of peak compute, {DERIVED_BANDWIDTH_RATIO} of peak bandwidth"
    return _studied(name, peak, effective, gib, source, note, fp8_speedup)


_STUDY = "planning study: rates of large bf16 GEMMs and paged decode attention"

# TFLOP/s and TB/s, then GiB. Peaks are dense 16-bit with 32-bit accumulation.
HARDWARE: dict[str, Hardware] = {
    record.name: record
    for record in (
        _studied("A100-80", (312, 2.039), (250, 1.76), 80, "NVIDIA A100 datasheet, SXM4 80 GB", _STUDY),
        _studied(
            "A100-40",
            (312, 1.555),
            (250, 1.555 * 1.76 / 2.039),
            40,
            "NVIDIA A100 datasheet, SXM4 40 GB",
            "A100-80 study rate for compute; bandwidth derived: the A100-80 ratio 0.863 of peak",
        ),
        _studied("H100", (989.4, 3.35), (693, 2.95), 80, "NVIDIA H100 datasheet, SXM5 80 GB", _STUDY, 2.0),
        _studied(
            "H200",
            (989.4, 4.8),
            (790, 4.3),
            139.8,
            "NVIDIA H200 datasheet, SXM 141 GB",
            "measured: large bf16 GEMMs and paged decode attention",
            2.0,
        ),
        _derived(
            "B200", (2250, 8.0), 178, "NVIDIA HGX B200 datasheet, dense = half of the sparse figure", 2.0
        ),
        _derived("L40S", (362.05, 0.864), 45, "NVIDIA L40S datasheet, 48 GB with ECC", 2.0),
        _derived(
            "RTX4090", (165.2, 1.008), 24, "NVIDIA Ada architecture paper, FP16 with FP32 accumulate", 2.0
        ),
        _derived("MI300X", (1307.4, 5.3), 192, "AMD Instinct MI300X datasheet", 2.0),
        # One socket core pair is what the embedded platform gets: AVX2 float32, two memory channels.
        _studied(
            "cpu",
            (0.2, 0.04),
            (0.1, 0.02),
            8,
            "generic: 2 cores x 32 float32 FLOP per cycle x 3 GHz, two DDR4-2666 channels",
            "derived: half of peak for both",
        ),
    )
}

_ALIASES = {
    "A100": "A100-80",
    "A100-80GB": "A100-80",
    "A100-40GB": "A100-40",
    "4090": "RTX4090",
    "RTX-4090": "RTX4090",
}


def known_names() -> tuple[str, ...]:
    """Every name that `hardware` takes, other than paths."""
    return (*HARDWARE, *_ALIASES)


def hardware(name: str) -> Hardware:
    """Looks an accelerator up by name, or reads a record when `name` is a path ending in .json.

    Raises:
        ConfigError: the name is not in the table and not a readable record.
    """
    if name.endswith(".json"):
        return hardware_from_file(Path(name))
    folded = name.strip().upper().replace("_", "-").replace(" ", "-")
    for key in (folded, _ALIASES.get(folded, "")):
        for known, record in HARDWARE.items():
            if key == known.upper():
                return record
    raise ConfigError(
        f"unknown hardware {name!r}; allowed are {', '.join(HARDWARE)} or a path to a .json hardware record."
    )


def hardware_from_file(path: Path) -> Hardware:
    """Reads a hardware record; keys left out are taken from the table entry named by `base`.

    Raises:
        ConfigError: unreadable, not a JSON object, unknown or missing keys, or impossible numbers.
    """
    try:
        record = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"hardware record {str(path)!r} cannot be read: {error.strerror}; check the path."
        ) from error
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"hardware record {str(path)!r} is not JSON ({error}); write one JSON object."
        ) from error
    if not isinstance(record, dict):
        raise ConfigError(
            f"hardware record {str(path)!r} is a {type(record).__name__}; write one JSON object."
        )
    return hardware_from_dict(record)


def hardware_from_dict(record: dict[str, object]) -> Hardware:
    """As `hardware_from_file`, from a parsed record."""
    values = dict(record)
    base = values.pop("base", None)
    known = {field.name for field in fields(Hardware)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"hardware record has the unknown key {unknown[0]!r}; allowed are base, "
            f"{', '.join(sorted(known))}."
        )
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(f"hardware record: base is {base!r}; allowed are {', '.join(HARDWARE)}.")
        values = {**asdict(hardware(base)), "effective_source": "user", **values}
    typed: dict[str, object] = {"measured": MeasuredRates.from_json(values.pop("measured", None))}
    for field in fields(Hardware):
        if field.name == "measured":
            continue
        if field.name not in values:
            if field.name in ("fp8_speedup", "source", "effective_source"):
                continue
            raise ConfigError(
                f"hardware record lacks {field.name!r}; add it, or name a table entry as 'base'."
            )
        value = values[field.name]
        text = field.name in ("name", "source", "effective_source")
        if text != isinstance(value, str) or (
            not text and (isinstance(value, bool) or not isinstance(value, int | float))
        ):
            raise ConfigError(
                f"hardware record: {field.name} is {value!r}; allowed is a {'string' if text else 'number'}."
            )
        typed[field.name] = value
    return Hardware(**typed)  # type: ignore[arg-type]  # every value was checked against its field above


VARIABLE = "SGLANG_BLEND_HARDWARE"


def calibrated_file(device_name: str) -> Path:
    """The place for a device ("NVIDIA H200", "cpu"), whether or not there is a record."""
    return cache_dir("hardware") / f"{re.sub(r'[^A-Za-z0-9.]+', '-', device_name)}.json"


def calibrated(device_name: str) -> Hardware | None:
    """The record of a device; None where nobody has calibrated.

    Raises:
        ConfigError: there is one, and it cannot be used.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "none" else hardware_from_file(Path(named))
    path = calibrated_file(device_name)
    return hardware_from_file(path) if path.exists() else None
