"""Draws a comparison as SVG: memory across, loss of quality up, speed as the size of the dot."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.facts import shown

if TYPE_CHECKING:
    from advisor.facts.comparison import Comparison, Row

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 760, 460, 80, 60, 40, 30
_INK, _FAINT = "#222222", "#bbbbbb"
_COLOURS: Final = {True: "#1b6ca8", False: "#c77f1a"}
_LEAST_KLD: Final = 1e-4  # what cannot be told from nothing on a short text


class Dot(NamedTuple):
    """A row that has a place in the picture."""

    name: str
    memory: float
    kld: float
    decode: float | None
    measured: bool


def dots(found: Comparison) -> list[Dot]:
    """Rows with memory and quality; what was measured goes before what was predicted."""
    out = []
    for r in found.rows:
        dot = _dot(r)
        if dot is not None:
            out.append(dot)
    return out


def _dot(r: Row) -> Dot | None:
    for side, measured in ((r.measured, True), (r.predicted, False)):
        if side is not None and side.memory is not None and side.kld is not None:
            name = r.format if r.method in ("gguf", "none", r.format) else f"{r.method} {r.format}"
            decode = float(side.decode.value) if side.decode is not None else None
            return Dot(name, float(side.memory.value), max(_LEAST_KLD, float(side.kld.value)), decode, measured)
    return None


def svg(found: Comparison) -> str:
    """The picture. KL divergence is on a logarithmic scale."""
    placed = dots(found)
    most = max((d.memory for d in placed), default=1.0) * 1.1
    low = math.floor(math.log10(min((d.kld for d in placed), default=0.01)))
    high = math.ceil(math.log10(max((d.kld for d in placed), default=1.0)))
    high = max(high, low + 1)
    fastest = max((d.decode or 0.0 for d in placed), default=1.0) or 1.0
    inside_x, inside_y = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(memory: float) -> float:
        return _LEFT + inside_x * memory / most

    def y(kld: float) -> float:
        return _TOP + inside_y * (high - math.log10(kld)) / (high - low)

    title = escape(f"{found.model.name}: memory, quality and speed of each method")
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<title>{title}</title><rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{title}</text>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        out.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{_FAINT}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for part in range(5):
        memory = most * part / 4
        out.append(
            f'<text x="{x(memory):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{escape(shown.size(int(memory)))}</text>"
        )
    for d in sorted(placed, key=lambda d: -(d.decode or 0.0)):
        radius = 4 + 12 * math.sqrt((d.decode or 0.0) / fastest)
        speed = "speed not known" if d.decode is None else f"{d.decode:.1f} tok/s"
        told = f"{d.name}: {shown.size(int(d.memory))}, KLD {d.kld:.4f}, {speed}"
        told += ", measured" if d.measured else ", predicted"
        out.append(
            f'<circle cx="{x(d.memory):.1f}" cy="{y(d.kld):.1f}" r="{radius:.1f}" fill="{_COLOURS[d.measured]}" '
            f'fill-opacity="0.55"><title>{escape(told)}</title></circle>'
        )
        out.append(f'<text x="{x(d.memory) + radius + 3:.1f}" y="{y(d.kld) + 4:.1f}">{escape(d.name)}</text>')
    middle = _TOP + inside_y / 2
    out += [
        f'<text x="{_LEFT + inside_x / 2:.0f}" y="{_HEIGHT - 22}" text-anchor="middle">memory while serving</text>',
        f'<text x="18" y="{middle:.0f}" transform="rotate(-90 18 {middle:.0f})" text-anchor="middle">'
        "KL divergence from 16 bits, nats</text>",
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}" fill="{_COLOURS[True]}">measured</text>',
        f'<text x="{_LEFT + 70}" y="{_HEIGHT - 6}" fill="{_COLOURS[False]}">predicted</text>',
        f'<text x="{_LEFT + 150}" y="{_HEIGHT - 6}">larger dots decode faster</text>',
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def draw(path: Path, found: Comparison) -> None:
    """Write the picture to ``path``.

    Raises:
        AdvisorError: ``disk-full``, ``not-writable``.
    """
    from advisor.execute.disk import make_folders, write_atomic

    make_folders(path.resolve().parent)
    write_atomic(path.resolve(), svg(found).encode())
