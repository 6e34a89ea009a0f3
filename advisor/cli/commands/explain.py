"""``advisor explain``."""

from __future__ import annotations

import click

from ..command import command
from ..run import Run


@command(
    "explain",
    "advisor explain",
    "advisor explain p-3f2a9c",
    "advisor explain GUIDE-060",
    "advisor explain nothing-fits",
)
@click.argument("what", required=False, metavar="[last|PLAN_ID|RULE_ID|ERROR_CODE]")
def explain(run: Run, what: str | None) -> None:
    """Say why: of a kept plan, a rule, an error code, or the last recommendation."""
    from advisor import api
    from advisor.facts.schemas import ExplainData

    from ..views import explanation as view

    found = api.explain(what, settings=run.settings)
    run.sink.result(
        run.command,
        ExplainData(explanation=found),
        human=lambda page: view.explanation(page, found),
        quiet=(found.text,),
    )
