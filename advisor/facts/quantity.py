"""A number shown to a user, with its range, its unit and where it comes from."""

from __future__ import annotations

from typing import Literal

from advisor.facts.base import Shape

Unit = Literal["bytes", "bytes/s", "tokens/s", "s", "nats", "ratio"]
Method = Literal["measured", "engine", "exact", "fit", "formula", "table", "guess"]

# Worst first: the sum of several quantities is only as good as the weakest of them.
_WEAKEST_FIRST: tuple[Method, ...] = ("guess", "table", "fit", "formula", "exact", "engine", "measured")


class Quantity(Shape, frozen=True, kw_only=True):
    """``low <= value <= high`` in ``unit``; ``method`` says how it was had, ``source`` from where."""

    value: float | int
    low: float | int
    high: float | int
    unit: Unit
    method: Method
    source: str


def exact(value: float | int, unit: Unit, source: str, method: Method = "exact") -> Quantity:
    """A quantity without spread."""
    return Quantity(value=value, low=value, high=value, unit=unit, method=method, source=source)


def spread(
    value: float | int, unit: Unit, method: Method, source: str, *, low: float = 1.0, high: float = 1.0
) -> Quantity:
    """A quantity whose bounds are the factors ``low`` and ``high`` of its value.

    Whole numbers stay whole: bytes are never fractional.
    """
    if isinstance(value, int):
        return Quantity(
            value=value, low=int(value * low), high=int(-(-value * high // 1)), unit=unit, method=method, source=source
        )
    return Quantity(value=value, low=value * low, high=value * high, unit=unit, method=method, source=source)


def total(parts: list[Quantity], source: str) -> Quantity:
    """Sum quantities of one unit; bounds add up and the weakest method names the sum. A sum with a spread is not exact:
    parts that are computed exactly up to a bound make a ``formula``.

    Raises:
        ValueError: no parts, or parts of different units.
    """
    if not parts:
        raise ValueError("a total needs at least one part")
    units = {p.unit for p in parts}
    if len(units) != 1:
        raise ValueError(f"cannot add {sorted(units)}")
    weakest = min((p.method for p in parts), key=_WEAKEST_FIRST.index)
    if weakest == "exact" and any(p.low != p.high for p in parts):
        weakest = "formula"
    return Quantity(
        value=sum(p.value for p in parts),
        low=sum(p.low for p in parts),
        high=sum(p.high for p in parts),
        unit=parts[0].unit,
        method=weakest,
        source=source,
    )
