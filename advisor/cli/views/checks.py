"""Health checks and the exit code that they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts.words import EXIT_MACHINE, EXIT_OK

from ..page import BAD, FAINT, GOOD, Cell, Column

if TYPE_CHECKING:
    from advisor.facts.reports import Check

    from ..page import Page
    from ..run import Run

_WORDS = {True: Cell("ok", GOOD), False: Cell("no", BAD), None: Cell("unknown", FAINT)}


def checks(page: Page, found: tuple[Check, ...], bundle: str | None = None) -> None:
    """A table of what was checked; hints below it."""
    page.table(
        [Column("check"), Column("state"), Column("found")],
        [[check.name, _WORDS[check.ok], check.message] for check in found],
    )
    hints = [f"{check.name}: {check.hint}" for check in found if check.hint and check.ok is not True]
    if hints:
        page.title("To do")
        page.bullets(hints)
    if bundle is not None:
        page.title("For whoever helps")
        page.text(f"{bundle}: checks, machine, settings, deployments and logs; look into it before it is sent.")


def report(run: Run, found: tuple[Check, ...], *, bundle: str | None = None) -> int:
    """Write the checks; 5 where one failed."""
    from advisor.facts.schemas import ChecksData

    failed = tuple(check for check in found if check.ok is False)
    run.sink.result(
        run.command,
        ChecksData(checks=found, bundle=bundle),
        human=lambda page: checks(page, found, bundle),
        quiet=tuple(f"{check.name}: {check.message}" for check in failed),
    )
    return EXIT_MACHINE if failed else EXIT_OK
