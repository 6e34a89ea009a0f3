"""The table of methods: predicted above, measured below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.facts import shown

from ..page import BAD, FAINT, FAIR, GOOD, Cell, Column

if TYPE_CHECKING:
    from advisor.facts.comparison import Comparison, Figures, Row
    from advisor.facts.quantity import Quantity

    from ..page import Page

_COLUMNS: Final = (
    Column("method"),
    Column("runtime"),
    Column("memory", True),
    Column("decode", True),
    Column("KLD", True),
    Column("perplexity", True),
    Column("made in", True),
    Column("file", True),
    Column("gate"),
)
_GATE: Final = {"pass": GOOD, "warn": FAIR, "fail": BAD}
_FIELDS: Final = ("memory", "decode", "kld", "perplexity", "quantize_seconds", "file_bytes")


def comparison(page: Page, found: Comparison, *, verbose: bool = False) -> None:
    """Write the table; rows that could not be had stand below it with their reasons."""
    page.title(found.model.name)
    page.text(
        "Predicted above, measured on this machine below. Perplexity: the ratio to the original's (and itself).", FAINT
    )
    rows = [r for r in found.rows if r.predicted is not None]
    page.blank()
    page.table(_COLUMNS, [_row(r) for r in rows])
    why = [f"{_name(r)} in {r.runtime}: {r.because}" for r in found.rows if r.because is not None]
    if why:
        page.title("Not measured, or not to be had")
        page.bullets(why)
    if verbose:
        page.title("When")
        page.bullets([f"{_name(r)}: {r.measured_at}" for r in rows if r.measured_at is not None])


def bare(found: Comparison) -> tuple[str, ...]:
    """One line a row: method, format, runtime, then what was measured, or ``-``."""
    out = []
    for r in found.rows:
        side = r.measured
        values = [getattr(side, name) if side is not None else None for name in _FIELDS]
        out.append(" ".join([r.method, r.format, r.runtime, *("-" if v is None else f"{v.value:g}" for v in values)]))
    return tuple(out)


def _name(r: Row) -> str:
    return r.format if r.method in ("gguf", "none", r.format) else f"{r.method} {r.format}"


def _row(r: Row) -> list[str | Cell]:
    cells: list[str | Cell] = [_name(r), r.runtime]
    cells += [_both(r.predicted, r.measured, name) for name in _FIELDS]
    verdict = r.verdict or ""
    cells.append(Cell(verdict, _GATE.get(verdict, FAINT)))
    return cells


def _both(predicted: Figures | None, measured: Figures | None, name: str) -> Cell:
    above = _text(getattr(predicted, name, None), name)
    below = _text(getattr(measured, name, None), name) if measured is not None else ""
    if name == "perplexity" and measured is not None and measured.perplexity_absolute is not None:
        below += f" ({float(measured.perplexity_absolute.value):.2f})"
    return Cell(above, FAINT if below else "", below)


def _text(value: Quantity | None, name: str) -> str:
    if value is None:
        return "?"
    number = float(value.value)
    if name in ("memory", "file_bytes"):
        return shown.size(int(number))
    if name == "decode":
        return f"{number:.1f} tok/s"
    if name == "quantize_seconds":
        return shown.seconds(number)
    return f"{number:.4f}" if name == "kld" else f"{number:.2f}"
