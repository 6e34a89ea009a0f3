"""Charts in a terminal: letters on a grid, and what each letter stands for."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from advisor.facts.text import clean

from ...layout import wrapped
from .chart import Chart

_ROWS: Final = 18
_WIDEST: Final = 100
_NARROWEST: Final = 40
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHOSEN: Final = "@"
_LIMIT: Final = "="


def lines(chart: Chart, width: int) -> list[str]:
    """The chart as lines of at most ``width`` characters; a sentence where that is less than 40.

    Capital letters are marks or curves (small where a curve is beyond a limit), ``@`` is what was chosen, ``=`` is a
    limit.
    """
    if width < _NARROWEST:
        return wrapped(f"A picture takes {_NARROWEST} columns, and here are {width}; --plot FILE.svg draws one.", width)
    labels = [word for _, word in chart.y.ticks]
    margin = max(map(len, labels), default=0) + 1
    columns = min(width, _WIDEST) - margin - 2
    grid = [[" "] * columns for _ in range(_ROWS)]
    for limit in chart.limits:
        row = _row(chart, limit.y)
        grid[row] = [_LIMIT] * columns
    legend = _put_lines(chart, grid) + _put_marks(chart, grid)
    ticks = {_row(chart, value): word for value, word in chart.y.ticks}
    out = [*wrapped(clean(chart.title, 200), width), *wrapped(chart.y.label, width)]
    for n, cells in enumerate(grid):
        out.append(f"{ticks.get(n, ''):>{margin}} |{''.join(cells)}".rstrip())
    out.append(" " * margin + " +" + "-" * columns)
    out.append(_below(chart, margin + 2, columns))
    out.append(f"{chart.x.label:>{margin + 2 + columns}}")
    for letter, text in [*legend, *((_LIMIT, limit.label) for limit in chart.limits)]:
        first, *rest = wrapped(clean(text, 200), width - 5)
        out += [f"  {letter}  {first}", *(f"     {line}" for line in rest)]
    return [line.rstrip() for line in out]


def _put_lines(chart: Chart, grid: list[list[str]]) -> list[tuple[str, str]]:
    legend = []
    for n, line in sorted(enumerate(chart.lines), key=lambda item: item[1].strong):  # the one asked for lies on top
        letter = _LETTERS[n % len(_LETTERS)]
        for column in range(len(grid[0])):
            found = _at(chart, line.points, (column + 0.5) / len(grid[0]))
            if found is not None:
                value, fits = found
                grid[_row(chart, value)][column] = letter if fits else letter.lower()
        legend.append((letter, line.label + (" (the one asked for)" if line.strong else "")))
    return sorted(legend)


def _at(chart: Chart, points: tuple[tuple[float, float, bool], ...], share: float) -> tuple[float, bool] | None:
    """The curve's value at a share of the x axis, straight between its points, and whether it is within the limits."""
    placed = [(chart.x.share(x), y, fits) for x, y, fits in points]
    for (x0, y0, _), (x1, y1, fits) in pairwise(placed):
        if x0 <= share <= x1:
            part = (share - x0) / (x1 - x0) if x1 > x0 else 0.0
            return y0 + (y1 - y0) * part, fits
    return None


def _put_marks(chart: Chart, grid: list[list[str]]) -> list[tuple[str, str]]:
    legend = []
    columns = len(grid[0])
    for n, m in enumerate(sorted(chart.marks, key=lambda m: m.chosen)):  # the chosen one comes last, on top
        letter = _CHOSEN if m.chosen else _LETTERS[(n + len(chart.lines)) % len(_LETTERS)]
        grid[_row(chart, m.y)][min(columns - 1, int(chart.x.share(m.x) * columns))] = letter
        legend.append((letter, m.told))
    return sorted(legend, key=lambda entry: entry[0] != _CHOSEN)


def _row(chart: Chart, value: float) -> int:
    return min(_ROWS - 1, int((1 - chart.y.share(value)) * _ROWS))


def _below(chart: Chart, margin: int, columns: int) -> str:
    """The x axis's labels, as many as there is room for."""
    line = [" "] * (margin + columns)
    free = 0
    for value, word in sorted(chart.x.ticks, key=lambda tick: chart.x.share(tick[0])):
        at = max(0, margin + int(chart.x.share(value) * (columns - 1)) - len(word) // 2)
        at = min(at, margin + columns - len(word))
        if at >= free:
            line[at : at + len(word)] = word
            free = at + len(word) + 1
    return "".join(line)
