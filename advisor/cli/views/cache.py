"""The cache, and what was removed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import Column

if TYPE_CHECKING:
    from advisor.facts.reports import CacheReport

    from ..page import Page


def holding(page: Page, found: CacheReport) -> None:
    """What there is, by kind."""
    page.fields([("cache", found.path)])
    if not found.parts:
        page.text("It holds nothing.")
        return
    page.table(
        [Column("what"), Column("items", True), Column("size", True)],
        [[p.what, str(p.items), shown.size(p.bytes)] for p in found.parts],
    )


def collected(page: Page, found: CacheReport) -> None:
    """What went, and what is left."""
    done = "would be freed" if found.dry_run else "freed"
    page.text(f"{shown.counted(len(found.removed), 'folder')}, {shown.size(found.freed_bytes)} {done}.")
    page.bullets(found.removed)
    holding(page, found)
