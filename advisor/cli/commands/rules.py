"""``advisor rules``: the selection guide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.facts.words import EXIT_NO, EXIT_OK, EXIT_USAGE

from ..command import LazyGroup, command
from ..options import compare_options, option
from ..params import EXISTING
from ..run import Run


@command(
    "list",
    "advisor rules list",
    "advisor rules list --for meta-llama/Llama-3.1-8B-Instruct --hardware rtx-4090",
    "advisor rules list --for 70B --goal accuracy --verbose",
)
@option("--for", "model", metavar="MODEL", help="Only the rules that speak of this model, and what they did.")
@compare_options
def list_(run: Run, model: str | None, **options: Any) -> None:
    """List the rules; with --for those that speak when MODEL is planned for, with what each did.

    The other options say for which machine and for what it is planned, as for `recommend`.
    """
    from advisor import api
    from advisor.facts.schemas import RulesData

    from ..views import rules as view

    found = api.rules_list(model=model, settings=run.settings, **options)
    run.sink.result(
        run.command,
        RulesData(rules=found),
        human=lambda page: view.rules(page, found, verbose=run.verbose),
        quiet=tuple(rule.id for rule in found),
        warnings=api.own_rules(settings=run.settings),
    )


@command("coverage")
def coverage(run: Run) -> int:
    """Say in which of the bundled situations each rule fires.

    Exit code 3: some rules fire in none of them; such a rule is dead, or a situation is missing.
    """
    from advisor import api
    from advisor.facts.schemas import CoverageData

    from ..views import rules as view

    found = api.rules_coverage(settings=run.settings)
    run.sink.result(
        run.command,
        CoverageData(coverage=found),
        human=lambda page: view.coverage(page, found, verbose=run.verbose),
        quiet=found.never,
    )
    return EXIT_NO if found.never else EXIT_OK


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
        "coverage": (__name__, "coverage", "Say which rules ever fire."),
    },
    "The selection guide's rules.",
)
