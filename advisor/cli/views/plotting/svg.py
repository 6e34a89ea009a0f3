"""Charts as SVG: text stays text, every mark tells its numbers, and nothing depends on the viewer's background.

Kinds are told apart by colour (Okabe and Ito's palette, which the colour-blind can tell apart) and by shape or dashes,
so that a print without colour can be read, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from advisor.facts.text import clean

from . import DRAWN_BY
from .chart import Chart, Line, Mark

_WIDTH: Final = 780
_PLOT: Final = (86, 64, 500, 330)  # left, top, width, height
_BELOW: Final = 64  # for the labels of the x axis
_NOTE_LINE: Final = 16
_INK, _FAINT, _GRID, _ALARM = "#1a1a1a", "#595959", "#dddddd", "#a3000b"
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#2a8fc4", "#000000", "#6a51a3")
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 4", "9 3 2 3 2 3")
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CHARACTER: Final = 6.6  # width of a letter of 12 px, on the safe side


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def svg(charts: Sequence[Chart]) -> str:
    """One document with the charts below one another."""
    heights = [_height(c) for c in charts]
    whole = sum(heights)
    titles = "; ".join(c.title for c in charts)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{whole}" viewBox="0 0 {_WIDTH} {whole}" '
        f'role="img" aria-labelledby="title desc" font-family="sans-serif" font-size="12" fill="{_INK}">',
        f"<!-- {DRAWN_BY} -->",
        f'<title id="title">{_text(titles)}</title>',
        f'<desc id="desc">{_text(" ".join(c.description for c in charts), None)}</desc>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    top = 0
    for chart, height in zip(charts, heights, strict=True):
        out += [f'<g transform="translate(0 {top})">', *_chart(chart), "</g>"]
        top += height
    return "\n".join([*out, "</svg>"]) + "\n"


def _height(chart: Chart) -> int:
    return _PLOT[1] + _PLOT[3] + _BELOW + _NOTE_LINE * len(_folded(chart.notes))


def _folded(notes: Sequence[str]) -> list[str]:
    """Notes in lines that fit the picture."""
    import textwrap

    return [line for note in notes for line in textwrap.wrap(clean(note, 600), int(_WIDTH / _CHARACTER) - 4)]


def _chart(chart: Chart) -> list[str]:
    left, top, width, height = _PLOT
    out = [f'<text x="20" y="30" font-size="15" font-weight="bold">{_text(chart.title)}</text>']
    out += _axes(chart)
    taken: list[_Box] = []
    for limit in chart.limits:
        y = _y(chart, limit.y)
        out.append(
            f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_ALARM}" stroke-width="2" '
            f'stroke-dasharray="10 4"><title>{_text(limit.label)}</title></line>'
        )
    ends = []
    for line in chart.lines:
        out += _line(chart, line)
        ends.append((_y(chart, line.points[-1][1]), line.label, _colour(line.kind), line.strong))
    ends += [(_y(chart, limit.y), limit.label, _ALARM, True) for limit in chart.limits]
    out += _beside(ends)
    taken += [_around(chart, m) for m in chart.marks]
    by_need = sorted(chart.marks, key=lambda m: not m.chosen)
    labels = [_label(chart, m, taken) for m in by_need]  # the chosen one has the first pick
    out += [*labels, *(_mark(chart, m) for m in reversed(by_need))]
    out += _legend(chart)
    start = top + height + _BELOW
    out += [
        f'<text x="20" y="{start + _NOTE_LINE * n}" fill="{_FAINT}">{_text(note)}</text>'
        for n, note in enumerate(_folded(chart.notes))
    ]
    return out


def _axes(chart: Chart) -> list[str]:
    left, top, width, height = _PLOT
    out = []
    for value, word in chart.y.ticks:
        y = _y(chart, value)
        out.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>')
        out.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{_text(word)}</text>')
    for value, word in chart.x.ticks:
        x = _x(chart, value)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + height}" stroke="{_GRID}"/>')
        out.append(f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle">{_text(word)}</text>')
    middle = top + height / 2
    return [
        *out,
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="{_INK}"/>',
        f'<text x="{left + width / 2:.0f}" y="{top + height + 38}" text-anchor="middle">{_text(chart.x.label)}</text>',
        f'<text x="22" y="{middle:.0f}" transform="rotate(-90 22 {middle:.0f})" text-anchor="middle">'
        f"{_text(chart.y.label)}</text>",
    ]


def _line(chart: Chart, line: Line) -> list[str]:
    """The part within the limits, then the part beyond them, which starts where the first one ends."""
    inside = [(x, y) for x, y, fits in line.points if fits]
    beyond = [(x, y) for x, y, fits in line.points if not fits]
    if inside and beyond:
        beyond.insert(0, inside[-1])
    out = []
    for points, faint in ((beyond, True), (inside, False)):
        if not points:
            continue
        path = " ".join(f"{_x(chart, x):.1f},{_y(chart, y):.1f}" for x, y in points)
        pattern = _DASHES[(line.kind + line.kind // len(_COLOURS)) % len(_DASHES)]
        dash = f' stroke-dasharray="{pattern}"' if pattern else ""
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{_colour(line.kind)}" '
            f'stroke-width="{3.2 if line.strong else 1.8}" stroke-opacity="{0.35 if faint else 1}"{dash}>'
            f"<title>{_text(line.label)}{', beyond the limit' if faint else ''}</title></polyline>"
        )
    return out


def _beside(ends: list[tuple[float, str, str, bool]]) -> list[str]:
    """Labels to the right of the picture, at the ends of lines, pushed apart."""
    left, top, width, height = _PLOT
    step = 15.0
    spots: list[float] = []
    ordered = sorted(ends, key=lambda e: (e[0], e[1]))
    for at, *_ in ordered:
        spots.append(max(at + 4, spots[-1] + step) if spots else at + 4)
    lowest = top + height + 4.0
    for index in range(len(spots) - 1, -1, -1):
        spots[index] = min(spots[index], lowest)
        lowest = spots[index] - step
    return [
        f'<text x="{left + width + 8}" y="{y:.1f}" fill="{colour}"{_bold(bold)}>{_text(label, 32)}</text>'
        for y, (_, label, colour, bold) in zip(spots, ordered, strict=True)
    ]


def _mark(chart: Chart, m: Mark) -> str:
    x, y, r = _x(chart, m.x), _y(chart, m.y), _radius(m)
    fill = "#ffffff" if m.hollow else _colour(m.kind)
    style = f'fill="{fill}" fill-opacity="{0.9 if m.hollow else 0.75}" stroke="{_colour(m.kind)}" stroke-width="2"'
    ring = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r + 5:.1f}" fill="none" stroke="{_INK}" stroke-width="2.2"/>'
        if m.chosen
        else ""
    )
    return f"<g><title>{_text(m.told)}</title>{_shape(m.kind, x, y, r, style)}{ring}</g>"


def _shape(kind: int, x: float, y: float, r: float, style: str) -> str:
    if kind % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" {style}/>'
    if kind % 4 == 1:
        return f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}" {style}/>'
    if kind % 4 == 2:
        corners = [(x, y - r * 1.2), (x + r * 1.1, y + r * 0.8), (x - r * 1.1, y + r * 0.8)]
    else:
        corners = [(x, y - r * 1.3), (x + r * 1.3, y), (x, y + r * 1.3), (x - r * 1.3, y)]
    return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" {style}/>'


def _label(chart: Chart, m: Mark, taken: list[_Box]) -> str:
    """The name of a mark where it covers nothing, as far as there is such a place."""
    left, top, width, height = _PLOT
    x, y, r = _x(chart, m.x), _y(chart, m.y), _radius(m) + (6 if m.chosen else 2)
    label = clean(m.label, 48)
    wide = len(label) * _CHARACTER * (1.07 if m.chosen else 1)
    frame = _Box(left, top - 14, left + width, top + height)
    offsets = ((r + 3, 4.0), (-r - 3 - wide, 4.0), (-wide / 2, -r - 4), (-wide / 2, r + 13))
    places = [
        _Box(x + dx, y + dy - 10 + shift, x + dx + wide, y + dy + 3 + shift)
        for shift in (0, -14, 14, -28, 28)
        for dx, dy in offsets
    ]
    free = [
        p
        for p in places
        if frame.left <= p.left
        and p.right <= frame.right
        and frame.top <= p.top
        and p.bottom <= frame.bottom
        and not any(p.meets(t) for t in taken)
    ]
    spot = (free or places)[0]
    taken.append(spot)
    return (
        f'<rect x="{spot.left - 1:.1f}" y="{spot.top:.1f}" width="{wide + 2:.1f}" height="14" fill="#ffffff" '
        'fill-opacity="0.7"/>'
        f'<text x="{spot.left:.1f}" y="{spot.bottom - 3:.1f}"{_bold(m.chosen)}>{_text(label)}</text>'
    )


def _legend(chart: Chart) -> list[str]:
    left, top, width, _ = _PLOT
    x, y = left + width + 14, top + 14
    out = []
    entries: list[tuple[int, bool, bool, str]] = [(kind, False, False, word) for kind, word in chart.legend]
    if any(m.hollow for m in chart.marks):
        entries.append((0, True, False, "needs something first"))
    if any(m.chosen for m in chart.marks):
        entries.append((0, False, True, "chosen"))
    if chart.lines:
        return []
    for n, (kind, hollow, chosen, word) in enumerate(entries):
        colour = _FAINT if hollow or chosen else _colour(kind)
        fill = "#ffffff" if hollow or chosen else colour
        style = f'fill="{fill}" stroke="{_INK if chosen else colour}" stroke-width="2"'
        out.append(_shape(0 if chosen else kind, x, y + 20 * n, 6, style))
        out.append(f'<text x="{x + 14}" y="{y + 20 * n + 4}">{_text(word, 24)}</text>')
    return out


def _around(chart: Chart, m: Mark) -> _Box:
    x, y, r = _x(chart, m.x), _y(chart, m.y), _radius(m)
    return _Box(x - r, y - r, x + r, y + r)


def _radius(m: Mark) -> float:
    return 4.5 + 7 * max(0.0, min(1.0, m.size))


def _x(chart: Chart, value: float) -> float:
    return _PLOT[0] + _PLOT[2] * chart.x.share(value)


def _y(chart: Chart, value: float) -> float:
    return _PLOT[1] + _PLOT[3] * (1 - chart.y.share(value))


def _colour(kind: int) -> str:
    return _COLOURS[kind % len(_COLOURS)]


def _bold(strong: bool) -> str:
    return ' font-weight="bold"' if strong else ""


def _text(text: str, limit: int | None = 400) -> str:
    """Text as XML: cleaned of terminal escapes and of what XML does not allow, and escaped."""
    return escape(_NO_XML.sub("", clean(text, limit)))
