"""The options that were dropped, by reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.facts.shown import counted
from advisor.planner.rejections import by_reason, summary, text

from ..page import FAINT

if TYPE_CHECKING:
    from advisor.facts.plan import Rejected

    from ..page import Page

_REASONS: Final = 5
_NAMES: Final = 3


def rejected(page: Page, dropped: tuple[Rejected, ...], *, verbose: bool = False) -> None:
    """Each reason once, with what it dropped: the first few, or all with ``verbose``."""
    if not dropped:
        return
    reasons = by_reason(dropped)
    page.title(f"Rejected ({summary(dropped, reasons)})")
    said = reasons if verbose or len(reasons) <= _REASONS + 1 else reasons[:_REASONS]
    page.bullets(text(reason, None if verbose else _NAMES) for reason in said)
    rest = reasons[len(said) :]
    if rest:
        several = counted(sum(len(reason.members) for reason in rest), "way")
        page.text(f"and {several} for {counted(len(rest), 'more reason', 'more reasons')}: --verbose", FAINT)
