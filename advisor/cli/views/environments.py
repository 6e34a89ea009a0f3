"""Managed environments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, GOOD, STRONG, Cell, Column

if TYPE_CHECKING:
    from advisor.facts.reports import EnvInfo, EnvOffer, ProviderInfo

    from ..page import Page


def environments(page: Page, found: tuple[EnvInfo, ...], *, verbose: bool = False) -> None:
    """A table; packages with ``verbose``."""
    if not found:
        page.text("No environment has been built yet; advisor builds them when they are needed.")
        return
    page.table(
        [Column("name"), Column("for"), Column("state"), Column("size", True), Column("python"), Column("path")],
        [
            [
                Cell(env.name, STRONG),
                env.variant or "",
                _state(env),
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


def _state(env: EnvInfo) -> Cell:
    """``outdated``: whole, but of another version's pins; it is not used any more."""
    if env.complete:
        return Cell("complete", GOOD)
    return Cell("outdated") if env.built else Cell("incomplete", BAD)


def offered(page: Page, offers: tuple[EnvOffer, ...], *, verbose: bool = False) -> None:
    """What this version can build here, and what each is for; needs and variants with ``verbose``."""
    page.table(
        [Column("environment"), Column("for"), Column("built"), Column("about", True), Column("what for")],
        [
            [
                Cell(offer.name, STRONG),
                offer.variant or "",
                Cell("yes", GOOD) if offer.built else "no",
                shown.size(offer.bytes),
                offer.purpose,
            ]
            for offer in offers
        ],
    )
    for reason in dict.fromkeys(reason for offer in offers for reason in offer.why):
        page.text(reason)
    if verbose:
        for offer in offers:
            if offer.variants:
                page.text(f"{offer.name}: variants {', '.join(offer.variants)}")
            for need in offer.needs:
                page.text(f"{offer.name} needs {need}")


def listing(
    page: Page,
    found: tuple[EnvInfo, ...],
    providers: tuple[ProviderInfo, ...],
    offers: tuple[EnvOffer, ...] = (),
    *,
    verbose: bool = False,
) -> None:
    """The environments that exist, those that can be built, then the providers of llama.cpp."""
    environments(page, found, verbose=verbose)
    if offers:
        page.blank()
        offered(page, offers, verbose=verbose)
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
