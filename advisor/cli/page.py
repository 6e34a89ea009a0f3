"""Writing for people: titles, fields, tables. The only place besides the progress bars that knows rich.

Every text that goes in is cleaned of terminal escapes here, so views may pass on foreign text as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from advisor.facts.quantity import Quantity
from advisor.facts.text import clean

from . import numbers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Below this many columns tables become records of "name: value" lines.
NARROW: Final = 60
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
    """A number with its origin; ``unknown`` where there is none."""
    return Cell(numbers.quantity(q), style if q else FAINT, numbers.origin(q))


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

    def _print(self, text: Text | str, style: str = "") -> None:
        self._started = True
        self.console.print(text, style=style or None, overflow="fold", soft_wrap=False)

    def blank(self) -> None:
        """An empty line, except at the top."""
        if self._started:
            self.console.print()

    def title(self, text: str) -> None:
        """A heading with an empty line before it."""
        self.blank()
        self._print(clean(text, _CELL_LIMIT), STRONG)

    def text(self, text: str, style: str = "", *, limit: int | None = 4000) -> None:
        """A paragraph."""
        self._print(clean(text, limit), style)

    def lines(self, text: str) -> None:
        """Text whose line breaks count."""
        for line in clean(text, None, one_line=False).split("\n"):
            self._print(line)

    def verbatim(self, text: str) -> None:
        """One line that is not wrapped, so that it can be copied."""
        self._started = True
        self.console.print(clean(text, None), soft_wrap=True)

    def bullets(self, items: Iterable[str], style: str = "") -> None:
        """One sentence a line, hanging."""
        for item in items:
            self._hanging("- ", clean(item, 2000), style)

    def numbered(self, items: Iterable[tuple[str, str]]) -> None:
        """Sentences behind a label of their own."""
        for label, item in items:
            self._hanging(f"{label}  ", clean(item, 2000), "")

    def _hanging(self, lead: str, text: str, style: str) -> None:
        from rich.padding import Padding
        from rich.text import Text

        if self.narrow:
            self._print(lead + text, style)
            return
        self._started = True
        whole = Text(text, style=style, overflow="fold")
        lines = whole.wrap(self.console, max(self.width - len(lead), 20))
        first, *rest = lines or [Text()]
        self.console.print(Text(lead).append_text(first), overflow="fold")
        for line in rest:
            self.console.print(Padding(line, (0, 0, 0, len(lead))))

    def fields(self, rows: Iterable[tuple[str, str | Cell]]) -> None:
        """Aligned ``label  value  (note)`` lines."""
        pairs = [(label, _cell(value)) for label, value in rows]
        if not pairs:
            return
        pad = 0 if self.narrow else max(len(label) for label, _ in pairs)
        for label, cell in pairs:
            self._print(self._line(label, cell, pad))

    def _line(self, label: str, cell: Cell, pad: int) -> Text:
        from rich.text import Text

        line = Text(overflow="fold")
        line.append(f"{label}: " if self.narrow else f"{label:<{pad}}  ", style=FAINT)
        line.append(clean(cell.text, _CELL_LIMIT), style=cell.style)
        if cell.note:
            line.append(f" ({clean(cell.note, _CELL_LIMIT)})", style=FAINT)
        return line

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]]) -> None:
        """A table with aligned columns, or records where the page is narrow."""
        cells = [[_cell(value) for value in row] for row in rows]
        if self.narrow:
            for index, row in enumerate(cells):
                if index:
                    self.blank()
                for column, cell in zip(columns, row, strict=True):
                    if cell.text:
                        self._print(self._line(column.title, cell, 0))
            return
        self._table(columns, cells)

    def _table(self, columns: Sequence[Column], cells: list[list[Cell]]) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style=STRONG)
        for column in columns:
            justify: str = "right" if column.number else "left"
            table.add_column(Text(column.title), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in cells:
            made = []
            for cell in row:
                text = Text(clean(cell.text, _CELL_LIMIT), style=cell.style)
                if cell.note:
                    text.append("\n" + clean(cell.note, _CELL_LIMIT), style=FAINT)
                made.append(text)
            table.add_row(*made)
        self._started = True
        self.console.print(table)


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)
