"""Rules of the selection guide, and what is wrong with rule files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, FAIR, GOOD, STRONG, Cell, Column
from .reasons import cite

if TYPE_CHECKING:
    from advisor.facts.reports import Coverage, Problem, RuleInfo

    from ..page import Page


def rules(page: Page, found: tuple[RuleInfo, ...], *, verbose: bool = False) -> None:
    """A table; reasons with ``verbose``. Rules of one model stand with what they did."""
    if any(r.effect is not None for r in found):
        _effects(page, found, verbose=verbose)
        return
    columns = [Column("id"), Column("kind"), Column("family"), Column("because" if verbose else "name")]
    page.table(
        columns,
        [
            (
                Cell(r.id, FAIR if r.overlay else STRONG, "yours" if r.overlay else ""),
                r.kind,
                r.family,
                r.because if verbose else r.name,
            )
            for r in found
        ],
    )
    page.text(shown.counted(len(found), "rule"))


def _effects(page: Page, found: tuple[RuleInfo, ...], *, verbose: bool) -> None:
    page.table(
        [Column("id"), Column("name"), Column("what it did")],
        [
            (
                Cell(r.id, FAIR if r.overlay else STRONG, "yours" if r.overlay else ""),
                r.name,
                r.effect.text if r.effect is not None else "",
            )
            for r in found
        ],
    )
    if verbose:
        page.numbered((r.id, r.because) for r in found)
    page.text(f"{shown.counted(len(found), 'rule')} spoke; the others had nothing to say here.")


def coverage(page: Page, found: Coverage, *, verbose: bool = False) -> None:
    """Rules that never fire; with ``verbose`` where each of the others does."""
    if verbose:
        page.table([Column("id"), Column("fires for")], sorted(found.fired.items()))
    total = len(found.fired) + len(found.never)
    page.text(
        f"{len(found.fired)} of {shown.counted(total, 'rule')} fire in one of {len(found.situations)} situations.",
        FAIR if found.never else GOOD,
    )
    if found.never:
        page.text("Never: " + ", ".join(found.never), BAD)


def rule(page: Page, found: RuleInfo) -> None:
    """One rule in full."""
    page.title(f"{found.id} {found.name}")
    page.text(found.because)
    page.fields(
        [
            ("does", found.does or found.kind),
            ("when", found.when),
            *([("instead", "; ".join(found.instead))] if found.instead else []),
            ("family", found.family),
            ("file", Cell(found.file, "", "your own rule" if found.overlay else "")),
            ("sources", "; ".join(cite(source) for source in found.sources)),
        ]
    )


def located(problem: Problem) -> str:
    """``file:line: code: message``, as editors and checkers understand it."""
    line = f":{problem.line}" if problem.line is not None else ""
    return f"{problem.path}{line}: {problem.code}: {problem.message}"


def problems(page: Page, found: tuple[Problem, ...]) -> None:
    """One line a problem."""
    if not found:
        page.text("No problems.", GOOD)
        return
    for problem in found:
        page.text(located(problem), BAD)
        if problem.hint:
            page.text(f"  hint: {problem.hint}")
    page.text(shown.counted(len(found), "problem"))
