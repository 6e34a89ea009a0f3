"""Numbers as people read them. Sizes are binary (GiB), rates of memory decimal (GB/s) as data sheets give them."""

from __future__ import annotations

from advisor.facts.quantity import Quantity

UNKNOWN = "unknown"


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    index = 0
    while abs(value) >= step * 0.9995 and index < len(units) - 1:
        value /= step
        index += 1
    if index == 0 and float(value).is_integer():
        return f"{int(value)} {units[0]}"
    # Three significant digits; 999.6 of a unit is not shown as 1e+03.
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {units[index]}"


def size(value: float | None) -> str:
    """``4.58 GiB``."""
    return UNKNOWN if value is None else _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def bandwidth(value: float | None) -> str:
    """``1008 GB/s``."""
    return UNKNOWN if value is None else _scaled(value, 1000, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s"))


def count(value: float | None) -> str:
    """Parameters: ``8.03 B``."""
    return UNKNOWN if value is None else _scaled(value, 1000, ("", "K", "M", "B", "T")).rstrip()


def seconds(value: float | None) -> str:
    """``4.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if value is None:
        return UNKNOWN
    if value < 60:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: float | None) -> str:
    """A number without a unit, to four significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:,.0f}"


def _by_unit(value: float, unit: str) -> str:
    if unit == "bytes":
        return size(value)
    if unit == "bytes/s":
        return bandwidth(value)
    if unit == "s":
        return seconds(value)
    if unit == "tokens/s":
        return f"{value:.1f} tok/s" if abs(value) < 99.95 else f"{value:.0f} tok/s"
    return f"{value:.4f}" if unit == "nats" else f"{value:.3f}"


def quantity(q: Quantity | None) -> str:
    """The value with its unit, without its origin."""
    return UNKNOWN if q is None else _by_unit(q.value, q.unit)


def quantity_range(q: Quantity | None) -> str:
    """``low - high`` where there is a spread, otherwise nothing."""
    if q is None or q.low == q.high:
        return ""
    return f"{_by_unit(q.low, q.unit)} - {_by_unit(q.high, q.unit)}"


def origin(q: Quantity | None) -> str:
    """How the number was had: ``measured``, ``formula``, ``table`` ..."""
    return "" if q is None else q.method


def ratio(value: float | None) -> str:
    """``x0.97`` of predicted by measured."""
    return "" if value is None else f"x{value:.2f}"
