"""Rules of the selection guide, and what is wrong with rule files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, FAIR, GOOD, STRONG, Cell, Column
from .reasons import cite

if TYPE_CHECKING:
    from advisor.facts.reports import Problem, RuleInfo

    from ..page import Page


def rules(page: Page, found: tuple[RuleInfo, ...], *, verbose: bool = False) -> None:
    """A table; reasons with ``verbose``."""
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


def rule(page: Page, found: RuleInfo) -> None:
    """One rule in full."""
    page.title(f"{found.id} {found.name}")
    page.text(found.because)
    page.fields(
        [
            ("kind", found.kind),
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
