"""Numbers as people read them, everywhere the same.

Memory and files are binary (GiB), memory bandwidth is decimal (GB/s) as data sheets give it. How many digits a number
gets depends on where it comes from: two for a guess or a table with a spread, three for a formula or a fit; measured
and exact numbers keep their whole part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from advisor.facts.quantity import Quantity

if TYPE_CHECKING:
    from advisor.facts.plan import Plan

UNKNOWN: Final = "unknown"
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNTS: Final = ("", "K", "M", "B", "T")
# A range is worth showing beside the number where its ends are further apart than this factor.
_WIDE: Final = 1.5
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def _rounded(value: float, digits: int | None, *, most: int = 6) -> str:
    """``value`` to ``digits`` significant digits, at most ``most`` decimals; ``None``: three, the whole part uncut."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    wanted = 3 if digits is None else digits
    before = math.floor(math.log10(abs(value))) + 1
    rounded = round(value, wanted - before)
    before = math.floor(math.log10(abs(rounded))) + 1 if rounded else before  # 9.996 is 10.0
    decimals = max(0, min(most, wanted - before))
    return f"{value if digits is None and before > wanted else rounded:.{decimals}f}"


def _scale(value: float, step: float, count: int) -> int:
    index = 0
    while abs(value) >= step * 0.9995 and index < count - 1:
        value /= step
        index += 1
    return index


def _sized(value: float, digits: int | None, index: int) -> str:
    if index == 0 and float(value).is_integer():
        return str(int(value))
    return _rounded(value / 1024**index, digits, most=2)


def size(value: float | None, digits: int | None = None) -> str:
    """Bytes: ``4.58 GiB``."""
    if value is None:
        return UNKNOWN
    index = _scale(value, 1024, len(_SIZES))
    return f"{_sized(value, digits, index)} {_SIZES[index]}"


def bandwidth(value: float | None, digits: int | None = None) -> str:
    """Bytes per second: ``1008 GB/s``; always in GB/s, as data sheets have it."""
    return UNKNOWN if value is None else f"{_rounded(value / 1e9, digits, most=2)} GB/s"


def count(value: float | None) -> str:
    """Parameters: ``8.03 B``."""
    if value is None:
        return UNKNOWN
    index = _scale(value, 1000, len(_COUNTS))
    if index == 0 and float(value).is_integer():
        return str(int(value))
    return f"{_rounded(value / 1000**index, None)} {_COUNTS[index]}".rstrip()


def seconds(value: float | None) -> str:
    """``4.2 s``, ``3 min 20 s``, ``52 min``, ``2 h 05 min``, ``3 days``: as finely as people say it."""
    if value is None:
        return UNKNOWN
    if value < _MINUTE:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    if whole < 10 * _MINUTE:
        return f"{whole // 60} min {whole % 60:02d} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(value / _MINUTE)
    if minutes < 60:
        return f"{minutes} min"
    if value < 10 * _HOUR:
        return f"{minutes // 60} h {minutes % 60:02d} min" if minutes % 60 else f"{minutes // 60} h"
    if value < 2 * _DAY:
        return f"{round(value / _HOUR)} h"
    return f"{round(value / _DAY)} days"


def plain(value: float | None) -> str:
    """A number without a unit, to four significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:,.0f}"


def counted(number: int, noun: str, several: str | None = None) -> str:
    """``1 slot``, ``2 slots``, ``8,192 tokens``."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"


def listed(words: list[str] | tuple[str, ...], joiner: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f" {joiner} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _digits(q: Quantity) -> int | None:
    if q.method in ("guess", "table") and q.low != q.high:
        return 2
    return 3 if q.method in ("formula", "fit") else None


def _number(value: float, unit: str, digits: int | None) -> str:
    """The value alone, in the unit's own scale, which must be one that does not change with the value."""
    if unit == "bytes/s":
        return _rounded(value / 1e9, digits, most=2)
    if unit == "tokens/s":
        return _rounded(value, digits, most=1 if abs(value) >= 1 else 2)
    if unit == "nats":
        return "<0.0001" if 0 < value < 5e-5 else _rounded(value, digits or 4, most=4)
    return f"{value:.{2 if digits == 2 else 3}f}"  # ratio


_UNITS: Final = {"bytes/s": " GB/s", "tokens/s": " tok/s"}


def _value(value: float, unit: str, digits: int | None) -> str:
    if unit == "bytes":
        return size(value, digits)
    if unit == "s":
        return seconds(value)
    return _number(value, unit, digits) + _UNITS.get(unit, "")


def quantity(q: Quantity | None) -> str:
    """The value with its unit, without its origin."""
    return UNKNOWN if q is None else _value(q.value, q.unit, _digits(q))


def quantity_range(q: Quantity | None) -> str:
    """``low - high`` with the unit said once where both ends share it; nothing where there is no spread."""
    if q is None or q.low == q.high:
        return ""
    low, high = _value(q.low, q.unit, _digits(q)), _value(q.high, q.unit, _digits(q))
    if low == high:
        return ""
    first, _, unit = low.partition(" ")
    return f"{first if unit and unit == high.partition(' ')[2] else low} - {high}"


def wide(q: Quantity | None) -> str:
    """The range without its unit, in the value's own scale and in two digits, where it is wide; otherwise nothing."""
    if q is None or q.high <= q.low * _WIDE:
        return ""
    if q.unit == "s":
        return f"{seconds(q.low)} - {seconds(q.high)}"
    if q.unit == "bytes":
        index = _scale(q.value, 1024, len(_SIZES))
        ends = [_sized(end, 2, index) for end in (q.low, q.high)]
    else:
        ends = [_number(end, q.unit, 2) for end in (q.low, q.high)]
    return "-".join(ends) if ends[0] != ends[1] else ""


def origin(q: Quantity | None) -> str:
    """How the number was had: ``measured``, ``formula``, ``table`` ... What has a spread is not called exact."""
    if q is None:
        return ""
    return "formula" if q.method == "exact" and q.low != q.high else q.method


def ratio(value: float | None) -> str:
    """``x0.97`` of predicted by measured."""
    return "" if value is None else f"x{value:.2f}"


def moment(stamp: str | None) -> str:
    """``2026-11-21 06:49 UTC`` of an ISO 8601 stamp in UTC; the stamp itself where it is none; empty without one."""
    if not stamp:
        return ""
    day, found, clock = stamp.partition("T")
    return f"{day} {clock[:5]} UTC" if found and stamp.endswith("Z") else stamp


def placement(plan: Plan, cards: int) -> str:
    """How the plan uses a machine's cards: ``tensor parallel on 2 cards``, ``layers split over 2 cards``, ``gpu0``.

    Args:
        plan: the plan.
        cards: how many accelerators the machine has; without any there is nothing to say.
    """
    s = plan.settings
    on = [key for key in plan.devices if key != "host"]
    if not cards:
        return ""
    if not on:
        return "CPU only"
    some = f"{len(on)} of {cards} cards" if len(on) < cards else counted(len(on), "card")
    where = on[0] if len(on) == 1 else some
    if len(on) == 1:
        how = where if cards == 1 else f"one card ({where})"
    elif s.tensor_parallel > 1 and s.pipeline_parallel > 1:
        how = f"tensor parallel {s.tensor_parallel} x pipeline parallel {s.pipeline_parallel}"
    elif s.tensor_parallel > 1:
        how = f"tensor parallel on {where}"
    elif s.pipeline_parallel > 1:
        how = f"pipeline parallel on {where}"
    else:
        how = f"layers split over {where}"
    if s.cpu_moe_layers:
        return f"{how}, experts of {counted(s.cpu_moe_layers, 'layer')} on the CPU"
    if "host" in plan.devices:
        return f"{counted(s.gpu_layers, 'layer')} on {where}, the rest on the CPU"
    return how
