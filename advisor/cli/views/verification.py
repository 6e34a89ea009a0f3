"""How far an artifact is from its original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown
from advisor.facts.words import EXIT_NO, EXIT_OK

from ..page import BAD, FAINT, FAIR, GOOD, Cell, Column

if TYPE_CHECKING:
    from advisor.facts.results import Gate, Verification

    from ..page import Page

VERDICT = {"pass": GOOD, "warn": FAIR, "fail": BAD}


def exit_code(found: Verification | None) -> int:
    """3 where the quality gate failed."""
    return EXIT_NO if found is not None and found.gate.verdict == "fail" else EXIT_OK


def verification(page: Page, found: Verification, *, verbose: bool = False) -> None:
    """Write a verification."""
    page.title("Quality")
    gate(page, found.gate)
    alone = found.perplexity_reference is None
    against = {"kld": found.kld, "top1_agreement": found.top1_agreement, "perplexity_ratio": _ratio(found)}
    measured = {**({} if alone else against), "perplexity": found.perplexity}
    page.blank()
    page.table(
        [Column("measure"), Column("value", True), Column("warns above", True), Column("fails above", True)],
        [_row(name, value, found.gate) for name, value in measured.items()]
        + ([] if alone else [["perplexity of the original", _measured(found.perplexity_reference), "", ""]]),
    )
    page.text(f"Measured on {shown.counted(found.positions, 'position')} of {found.text}.", FAINT)
    if found.prompts:
        page.title("Prompts")
        page.table(
            [Column("prompt"), Column("answer"), Column("verdict")],
            [[p.name, p.answer, Cell(*_prompt(p.same and not alone, p.coherent, alone=alone))] for p in found.prompts],
        )
    if found.task is not None:
        original = "" if found.task.reference_correct is None else f"; the original {found.task.reference_correct}"
        asked = f"{found.task.items} questions of {found.task.name}"
        page.text(f"Of the {asked} it answers {found.task.correct}{original}.")
    if found.findings:
        page.title("Findings")
        page.bullets(f"{f.message} {f.remedy}" for f in found.findings)
    if verbose and found.types:
        page.title("Tensor types")
        page.fields((name, str(n)) for name, n in found.types.items())


def gate(page: Page, found: Gate) -> None:
    """The verdict and its reasons."""
    page.fields([("gate", Cell(found.verdict, VERDICT[found.verdict]))])
    page.bullets(found.because)


def _ratio(found: Verification) -> float | None:
    if found.perplexity is None or not found.perplexity_reference:
        return None
    return found.perplexity / found.perplexity_reference


def _measured(value: float | None) -> Cell:
    return Cell(shown.plain(value), "" if value is not None else FAINT, "measured" if value is not None else "")


def _row(name: str, value: float | None, found: Gate) -> list[str | Cell]:
    band = found.bands.get(name)
    if band is None:
        return [name, _measured(value), "", ""]
    return [name, _measured(value), shown.plain(band.warn), Cell(shown.plain(band.fail), "", band.source)]


def _prompt(same: bool, coherent: bool, *, alone: bool) -> tuple[str, str]:
    if same:
        return "same as the original", GOOD
    if alone and coherent:
        return "coherent", GOOD
    return ("differs, coherent", FAIR) if coherent else ("not coherent", BAD)
