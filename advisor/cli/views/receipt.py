"""Predicted beside measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.facts import shown

from ..page import FAINT, FAIR, GOOD, Cell, Column, quantity_cell

if TYPE_CHECKING:
    from advisor.facts.results import Receipt

    from ..page import Page

_ROWS: Final = ("memory", "decode", "prefill", "start")
# A prediction within this factor of the measurement is shown as good.
_CLOSE: Final = 1.25


def receipt(page: Page, found: Receipt, *, reused_from: str | None = None) -> None:
    """Write the table and its notes. The ratio is predicted / measured.

    Args:
        found: the receipt.
        reused_from: when the deployment was launched, where this is the receipt of that earlier launch.
    """
    when = f", measured {shown.moment(found.measured_at)}" if found.measured_at else ""
    page.title(f"Receipt of its launch at {shown.moment(reused_from)}{when}" if reused_from else f"Receipt{when}")
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
    return Cell(shown.ratio(value), GOOD if close else FAIR)
