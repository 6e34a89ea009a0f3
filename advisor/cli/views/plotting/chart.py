"""What a picture shows, apart from how it is drawn: axes with their ticks, marks, lines and limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from advisor.facts import shown

_GIB: Final = float(1 << 30)


class Axis(NamedTuple):
    """``low`` to ``high`` with labelled ticks; ``label`` names the unit. ``flipped``: the low end is on the far side,
    where the eye looks for the better."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    flipped: bool = False

    def share(self, value: float) -> float:
        """Where ``value`` is on the axis, from 0 to 1; what lies outside is put on the edge."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(at, self.low))
        found = min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.5
        return 1 - found if self.flipped else found


class Mark(NamedTuple):
    """One point. ``kind`` picks colour and shape; ``size`` from 0 to 1; ``hollow`` and ``chosen`` are in the legend."""

    x: float
    y: float
    label: str
    told: str
    kind: int = 0
    size: float = 0.5
    hollow: bool = False
    chosen: bool = False


class Line(NamedTuple):
    """One curve: its points with whether each is within the limits; beyond them it is drawn faintly."""

    points: tuple[tuple[float, float, bool], ...]
    label: str
    kind: int = 0
    strong: bool = False


class Limit(NamedTuple):
    """A horizontal line that is not to be crossed."""

    y: float
    label: str


class Chart(NamedTuple):
    """One picture. ``legend`` explains kinds: ``(kind, word)``; ``notes`` stand below the picture."""

    title: str
    description: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    limits: tuple[Limit, ...] = ()
    legend: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()


def log_axis(label: str, values: Iterable[float], *, flipped: bool = False) -> Axis:
    """A logarithmic axis around ``values``, with ticks at 1, 2 and 5 of each power of ten."""
    found = [v for v in values if v > 0 and math.isfinite(v)]
    low, high = (min(found) / 1.3, max(found) * 1.4) if found else (1.0, 10.0)
    ticks = [
        (step * 10.0**power, f"{step * 10.0**power:g}")
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in (1, 2, 5)
    ]
    inside = [tick for tick in ticks if low <= tick[0] <= high]
    if len(inside) > 8:
        inside = [tick for tick in inside if tick[1].lstrip("0.").startswith("1")]
    if len(inside) < 2:
        inside = [(low, f"{low:.2g}"), (high, f"{high:.2g}")]
    return Axis(label, low, high, tuple(inside), log=True, flipped=flipped)


def memory_axis(label: str, most: float) -> Axis:
    """A linear axis from 0 to ``most`` bytes, with round ticks in MiB, GiB or TiB."""
    unit, word = next(
        ((size, name) for size, name in ((_GIB * 1024, "TiB"), (_GIB, "GiB")) if most >= size),
        (float(1 << 20), "MiB"),
    )
    top = max(most * 1.08 / unit, 1e-6)
    step = _round_step(top / 5)
    ticks = tuple((n * step * unit, shown.plain(n * step)) for n in range(int(top / step) + 1))
    return Axis(f"{label}, {word}", 0.0, top * unit, ticks)


def context_axis(contexts: Iterable[int]) -> Axis:
    """A logarithmic axis of tokens, with ticks at powers of two."""
    found = sorted(set(contexts)) or [512, 1024]
    low, high = found[0], max(found[-1], found[0] * 2)
    ticks = [(float(2**n), tokens(2**n)) for n in range(8, 25) if low <= 2**n <= high]
    return Axis("context, tokens", float(low), float(high), tuple(ticks), log=True)


def tokens(count: int) -> str:
    """``8k`` for 8192; the whole number where it is no multiple of 1024."""
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else str(count)


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * 0.999)
