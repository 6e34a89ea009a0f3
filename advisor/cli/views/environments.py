"""Managed environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, GOOD, STRONG, Cell, Column

if TYPE_CHECKING:
    from advisor.facts.reports import EnvInfo, ProviderInfo

    from ..page import Page


def environments(page: Page, found: tuple[EnvInfo, ...], *, verbose: bool = False) -> None:
    """A table; packages with ``verbose``."""
    if not found:
        page.text("No environment has been built yet; advisor builds them when they are needed.")
        return
    page.table(
        [Column("name"), Column("state"), Column("size", True), Column("python"), Column("path")],
        [
            [
                Cell(env.name, STRONG),
                Cell("complete", GOOD) if env.complete else Cell("incomplete", BAD),
                shown.size(env.bytes),
                env.python or shown.UNKNOWN,
                env.path,
            ]
            for env in found
        ],
    )
    if verbose:
        for env in found:
            page.title(env.name)
            page.fields(sorted(env.packages.items()))


def listing(
    page: Page, found: tuple[EnvInfo, ...], providers: tuple[ProviderInfo, ...], *, verbose: bool = False
) -> None:
    """The environments, then the providers of llama.cpp."""
    environments(page, found, verbose=verbose)
    if not providers:
        return
    page.blank()
    page.table(
        [Column("llama.cpp"), Column("state"), Column("version"), Column("for"), Column("path")],
        [
            [
                Cell(p.provider, STRONG),
                Cell(p.state, GOOD if p.state == "works" else BAD if p.state in ("failed", "refused") else ""),
                p.version or shown.UNKNOWN,
                " ".join(p.backends),
                p.path or "",
            ]
            for p in providers
        ],
    )
    for p in providers:
        if p.why is not None:
            page.text(f"{p.provider}: {p.why}")


def removed(page: Page, env: EnvInfo) -> None:
    """What was deleted."""
    freed = f"; {shown.size(env.bytes)} are free again" if env.bytes is not None else ""
    page.text(f"Removed {env.path}{freed}.")
