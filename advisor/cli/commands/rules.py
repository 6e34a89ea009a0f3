"""``advisor rules``: the selection guide."""

from __future__ import annotations

from pathlib import Path

import click

from advisor.facts.words import EXIT_OK, EXIT_USAGE

from ..command import LazyGroup, command
from ..params import EXISTING
from ..run import Run


@command("list")
def list_(run: Run) -> None:
    """List the rules."""
    from advisor import api
    from advisor.facts.schemas import RulesData

    from ..views import rules as view

    found = api.rules_list(settings=run.settings)
    run.sink.result(
        run.command,
        RulesData(rules=found),
        human=lambda page: view.rules(page, found, verbose=run.verbose),
        quiet=tuple(rule.id for rule in found),
    )


@command("show")
@click.argument("rule_id")
def show(run: Run, rule_id: str) -> None:
    """Show one rule."""
    from advisor import api
    from advisor.facts.schemas import RuleData

    from ..views import rules as view

    found = api.rules_show(rule_id, settings=run.settings)
    run.sink.result(
        run.command, RuleData(rule=found), human=lambda page: view.rule(page, found), quiet=(found.because,)
    )


@command("lint")
@click.argument("paths", nargs=-1, type=EXISTING, metavar="[FILE_OR_FOLDER]...")
def lint(run: Run, paths: tuple[Path, ...]) -> int:
    """Check rule files, or all that are in force where none is named.

    Exit code 2: there are problems.
    """
    from advisor import api
    from advisor.facts.schemas import LintData

    from ..views import rules as view

    found = api.rules_lint(paths, settings=run.settings)
    run.sink.result(
        run.command,
        LintData(problems=found),
        human=lambda page: view.problems(page, found),
        quiet=tuple(view.located(problem) for problem in found),
    )
    return EXIT_USAGE if found else EXIT_OK


rules = LazyGroup(
    "rules",
    {
        "list": (__name__, "list_", "List the rules."),
        "show": (__name__, "show", "Show one rule."),
        "lint": (__name__, "lint", "Check rule files."),
    },
    "The selection guide's rules.",
)
