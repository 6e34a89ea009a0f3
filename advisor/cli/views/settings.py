"""Settings with their origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..page import FAINT, Cell, Column

if TYPE_CHECKING:
    from advisor.settings import Value

    from ..page import Page


def settings(page: Page, values: Mapping[str, Value]) -> None:
    """A table."""
    page.table(
        [Column("setting"), Column("value"), Column("set by")],
        [[name, _shown(value.value), Cell(value.origin, FAINT)] for name, value in values.items()],
    )


def _shown(value: str | int | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
