"""An explanation with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..page import FAINT
from .reasons import cite

if TYPE_CHECKING:
    from advisor.facts.reports import Explanation

    from ..page import Page


def explanation(page: Page, found: Explanation) -> None:
    """Write it."""
    pages = [text for text in found.details if "\n" in text]
    if found.kind == "rule" and pages:  # the whole rule, with its reason and its sources
        for text in pages:
            heading, _, rest = text.partition("\n")
            page.title(heading)
            page.paragraphs(rest)
        _parts(page, found)
        return
    page.title(f"{found.id}: {found.title}" if found.title else found.id)
    page.text(found.text)
    _parts(page, found)
    if found.details and not found.parts:
        page.blank()
        page.bullets(found.details)
    if found.sources:
        page.title("Sources")
        page.bullets((cite(source) + (f", {source.url}" if source.url else "") for source in found.sources), FAINT)


def _parts(page: Page, found: Explanation) -> None:
    for part in found.parts:
        page.title(part.title)
        page.bullets(text for text in part.sentences if text != found.text)
