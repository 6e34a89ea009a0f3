"""Writing for people: titles, fields, tables. The only place besides the progress bars that knows rich.

Every text that goes in is cleaned of terminal escapes here, so views may pass on foreign text as it is. Lines break
between words only: an address, a path or an id is never cut, so that it can be copied from any terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from advisor.facts import shown
from advisor.facts.quantity import Quantity
from advisor.facts.text import clean

from . import layout

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Below this many columns tables become records of "name: value" lines.
NARROW: Final = 60
# Columns between two columns of a table.
GAP: Final = 2
# Width of text that goes into a pipe or file, where nobody has said how wide it may be.
UNBOUND: Final = 110
_CELL_LIMIT: Final = 400

GOOD: Final = "green"
FAIR: Final = "yellow"
BAD: Final = "red"
FAINT: Final = "dim"
STRONG: Final = "bold"


class Cell(NamedTuple):
    """One value; ``note`` (its origin, mostly) stands faintly below or behind it."""

    text: str
    style: str = ""
    note: str = ""


class Column(NamedTuple):
    """A column's heading and whether it holds numbers."""

    title: str
    number: bool = False


def quantity_cell(q: Quantity | None, style: str = "") -> Cell:
    """A number with its origin, and its range where that is wide; ``unknown`` where there is none."""
    note = ", ".join(part for part in (shown.origin(q), shown.wide(q)) if part)
    return Cell(shown.quantity(q), style if q else FAINT, note)


class Page:
    """One stream as a page. ``narrow`` says that tables will be written as records."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        bound = stream.isatty() or "COLUMNS" in os.environ
        self.console: Console = Console(
            file=stream, width=None if bound else UNBOUND, highlight=False, markup=False, emoji=False
        )
        self.width = self.console.width
        self.narrow = self.width < NARROW
        self._started = False
        self._terminal = stream.isatty()
        # Written at once by the caller, who knows what a closed pipe means here.
        self.console.begin_capture()

    def finish(self) -> str:
        """The whole page; padding at the ends of lines is kept for terminals only."""
        text = self.console.end_capture()
        return text if self._terminal else "".join(f"{line.rstrip(' ')}\n" for line in text.splitlines())

    def _print(self, text: Text, indent: int = 0) -> None:
        """Write one paragraph; its later lines start ``indent`` columns to the right."""
        self._started = True
        ends = layout.breaks(text.plain, self.width, self.width - indent)
        for index, part in enumerate(text.divide(ends)):
            part.rstrip()
            if index and indent:
                part.pad_left(indent)
            self.console.print(part, soft_wrap=True)

    def _styled(self, text: str, style: str = "") -> Text:
        from rich.text import Text

        return Text(text, style=style)

    def blank(self) -> None:
        """An empty line, except at the top."""
        if self._started:
            self.console.print()

    def title(self, text: str) -> None:
        """A heading with an empty line before it."""
        self.blank()
        self._print(self._styled(clean(text, _CELL_LIMIT), STRONG))

    def text(self, text: str, style: str = "", *, limit: int | None = 4000) -> None:
        """A paragraph."""
        self._print(self._styled(clean(text, limit), style))

    def lines(self, text: str) -> None:
        """Text whose line breaks count: nothing is wrapped."""
        for line in clean(text, None, one_line=False).split("\n"):
            self.verbatim(line)

    def paragraphs(self, text: str) -> None:
        """Text of several lines, each wrapped."""
        for line in clean(text, None, one_line=False).split("\n"):
            self._print(self._styled(line), indent=2)

    def verbatim(self, text: str) -> None:
        """One line that is not wrapped, so that it can be copied."""
        self._started = True
        self.console.print(clean(text, None), soft_wrap=True)

    def drawing(self, lines: Iterable[str]) -> None:
        """Lines whose spaces count: a picture made of characters."""
        from rich.text import Text

        self._started = True
        for line in lines:
            self.console.print(Text(clean(line, None, one_line=False).replace("\n", " ")), soft_wrap=True)

    def bullets(self, items: Iterable[str], style: str = "") -> None:
        """One sentence a line, hanging."""
        self.numbered((("-", item) for item in items), style)

    def numbered(self, items: Iterable[tuple[str, str]], style: str = "") -> None:
        """Sentences behind a label of their own."""
        for label, item in items:
            lead = f"{label} " if label else "  "
            self._print(self._styled(lead + clean(item, 2000), style), 0 if self.narrow else len(lead))

    def fields(self, rows: Iterable[tuple[str, str | Cell]]) -> None:
        """Aligned ``label  value  (note)`` lines."""
        pairs = [(label, _cell(value)) for label, value in rows]
        if not pairs:
            return
        pad = 0 if self.narrow else max(len(label) for label, _ in pairs)
        for label, cell in pairs:
            self._print(self._line(label, cell, pad), pad + 2 if pad else 0)

    def _line(self, label: str, cell: Cell, pad: int) -> Text:
        from rich.text import Text

        line = Text(f"{label:<{pad}}  " if pad else f"{label}: ", style=FAINT)
        line = Text().append_text(line)
        line.append(clean(cell.text, _CELL_LIMIT), style=cell.style)
        if cell.note:
            line.append(f" ({clean(cell.note, _CELL_LIMIT)})", style=FAINT)
        return line

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]]) -> None:
        """A table with aligned columns, or records where the page is too narrow for its words."""
        cells = [[_cell(value) for value in row] for row in rows]
        cells = [[Cell(clean(c.text, _CELL_LIMIT), c.style, clean(c.note, _CELL_LIMIT)) for c in row] for row in cells]
        widths = None if self.narrow else self._widths(columns, cells)
        if widths is None:
            self._records(columns, cells)
        else:
            self._table(columns, cells, widths)

    def _records(self, columns: Sequence[Column], cells: list[list[Cell]]) -> None:
        for index, row in enumerate(cells):
            if index:
                self.blank()
            for column, cell in zip(columns, row, strict=True):
                if cell.text:
                    self._print(self._line(column.title, cell, 0))

    def _widths(self, columns: Sequence[Column], cells: list[list[Cell]]) -> list[int] | None:
        needs = []
        for index, column in enumerate(columns):
            notes = [(row[index].note, False) for row in cells if row[index].note]
            texts = [(row[index].text, column.number) for row in cells]
            needs.append(layout.need([(column.title, False), *texts, *notes]))
        return layout.fit(needs, self.width, GAP)

    def _table(self, columns: Sequence[Column], cells: list[list[Cell]], widths: list[int]) -> None:
        self._row([(Cell(c.title, STRONG), c.number) for c in columns], widths)
        self.console.print("─" * min(sum(widths) + GAP * (len(widths) - 1), self.width), style=FAINT)
        for row in cells:
            self._row([(cell, column.number) for cell, column in zip(row, columns, strict=True)], widths)

    def _row(self, row: list[tuple[Cell, bool]], widths: list[int]) -> None:
        from rich.text import Text

        self._started = True
        columns = []
        for (cell, number), width in zip(row, widths, strict=True):
            parts = [(part, cell.style) for part in layout.wrapped(cell.text, width)]
            parts += [(part, FAINT) for part in layout.wrapped(cell.note, width)] if cell.note else []
            columns.append([layout.Part(text, style, number) for text, style in parts])
        for index in range(max(map(len, columns))):
            line = Text()
            for parts_, width in zip(columns, widths, strict=True):
                if line.plain or parts_ is not columns[0]:
                    line.append(" " * GAP)
                part = parts_[index] if index < len(parts_) else layout.Part("", "", number=False)
                space = " " * max(0, width - layout.length(part.text))
                line.append(space if part.number else "").append(part.text, style=part.style)
                line.append("" if part.number else space)
            line.rstrip()
            self.console.print(line, soft_wrap=True)


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)
