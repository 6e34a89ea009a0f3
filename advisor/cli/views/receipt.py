"""Predicted beside measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .. import numbers
from ..page import FAINT, FAIR, GOOD, Cell, Column, quantity_cell

if TYPE_CHECKING:
    from advisor.facts.results import Receipt

    from ..page import Page

_ROWS: Final = ("memory", "decode", "prefill", "start")
# A prediction within this factor of the measurement is shown as good.
_CLOSE: Final = 1.25


def receipt(page: Page, found: Receipt) -> None:
    """Write the table and its notes. The ratio is predicted / measured."""
    page.title("Receipt")
    page.table(
        [Column("what"), Column("predicted", True), Column("measured", True), Column("predicted/measured", True)],
        [
            [
                name,
                quantity_cell(getattr(found.predicted, name)),
                quantity_cell(getattr(found.measured, name)),
                _ratio(getattr(found.error, f"{name}_ratio")),
            ]
            for name in _ROWS
        ],
    )
    if found.quality_gate is not None:
        from . import verification

        verification.gate(page, found.quality_gate)
    page.bullets(found.notes, FAINT)


def _ratio(value: float | None) -> Cell:
    close = value is not None and 1 / _CLOSE <= value <= _CLOSE
    return Cell(numbers.ratio(value), GOOD if close else FAIR)
