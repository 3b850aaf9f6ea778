"""Numbers as people read them."""

from __future__ import annotations

import math

NOTHING = "\u2013"
_PREFIXES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k"))


def seconds(value: float) -> str:
    """`0.8 ms`, `39.0 s`, `12 min 05 s`, `3 h 20 min`."""
    if value < 0.9995e-3:
        return f"{value * 1e6:.0f} µs"
    if value < 0.9995:
        return f"{value * 1e3:.3g} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    if value < 600:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{value / 86400:.1f} days"


def count(value: float) -> str:
    """Whole numbers with separators, up to a million; above, four digits and a prefix."""
    if abs(value) < 1e6:
        return f"{value:,.0f}"
    return large(value)


def large(value: float) -> str:
    """Four significant digits and a prefix."""
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{prefix}"
    return f"{value:,.4g}"


def rate(value: float) -> str:
    """Per second, three significant digits at least."""
    if value >= 1e6:
        return large(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float) -> str:
    """0 to 1 as percent."""
    return f"{value:.1%}"


def density(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def money(value: float) -> str:
    """Without a currency: it is that of the price."""
    return f"{value:,.2f}" if value >= 0.005 or value == 0 else "< 0.01"


def size(num_bytes: float) -> str:
    """Binary prefixes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 999.5 or unit == "GiB":
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    raise AssertionError("unreachable")


def with_unit(value: float | None, unit: str) -> str:
    """A figure's value by its unit's name (`metrics.Unit`); a dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    match unit:
        case "s":
            return seconds(value)
        case "tok/s":
            return f"{rate(value)} tok/s"
        case "ratio":
            return ratio(value)
        case "density":
            return density(value)
        case "money":
            return money(value)
        case _:
            return f"{value:.1f}" if value != round(value) and value < 1000 else count(value)
