"""How text is laid out in columns of characters: where lines break, and how wide the columns of a table are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

# The last column of a table may be this narrow; words that are longer stick out to the right, where nothing follows.
_LAST: Final = 24


class Part(NamedTuple):
    """One line of one cell; numbers stand at the right."""

    text: str
    style: str
    number: bool


class Need(NamedTuple):
    """What a column takes at least (its longest word) and at best (its longest line)."""

    least: int
    best: int


def length(text: str) -> int:
    """Columns that ``text`` takes on a terminal; wide characters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def breaks(text: str, width: int, later: int) -> list[int]:
    """Where the lines after the first one start; a line breaks between words only.

    Args:
        text: one paragraph.
        width: of the first line, in columns.
        later: of the other lines. A word that no line could hold stays where it is and sticks out.
    """
    starts: list[int] = []
    used, room = 0, width
    for start, word in _words(text):
        size = length(word)
        gap = start - (_end(text, starts, start))
        if used and used + gap + size > room and size <= max(later, 1):
            starts.append(start)
            used, room = size, later
        else:
            used += gap + size
    return starts


def _words(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for word in text.split(" "):
        if word:
            yield start, word
        start += len(word) + 1


def _end(text: str, starts: Sequence[int], start: int) -> int:
    """Where the text before the word at ``start`` ends on its line."""
    first = starts[-1] if starts else 0
    return first + len(text[first:start].rstrip(" "))


def wrapped(text: str, width: int) -> list[str]:
    """The lines of ``text``; at least one."""
    starts = [0, *breaks(text, width, width), len(text)]
    return [text[a:b].rstrip(" ") for a, b in pairwise(starts)] or [""]


def need(texts: Sequence[tuple[str, bool]]) -> Need:
    """What texts take; the second of each pair says that it must stay on one line."""
    least = max(
        (length(text) if whole else max(map(length, text.split(" "))) for text, whole in texts),
        default=0,
    )
    return Need(least, max((length(text) for text, _ in texts), default=0))


def fit(needs: Sequence[Need], width: int, gap: int) -> list[int] | None:
    """The widths of columns on ``width`` columns, or ``None`` where their words do not fit.

    The last column may be narrower than its longest word: what sticks out there is in nobody's way.
    """
    free = width - gap * (len(needs) - 1)
    widths = [n.least for n in needs]
    if sum(widths) > free:
        rest = free - sum(widths[:-1])
        if rest < min(widths[-1], _LAST):
            return None
        widths[-1] = rest
    spare = free - sum(widths)
    while spare > 0:
        lacking = [n.best - w for n, w in zip(needs, widths, strict=True)]
        most = max(lacking)
        if most <= 0:
            break
        widths[lacking.index(most)] += 1
        spare -= 1
    return widths
