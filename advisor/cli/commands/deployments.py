"""``advisor status``, ``logs``, ``down`` and ``restart``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from advisor.errors import AdvisorError
from advisor.facts.words import EXIT_NO, EXIT_OK

from ..choosing import ALIVE, the_one
from ..command import command
from ..options import option
from ..params import COUNT
from ..run import Run

if TYPE_CHECKING:
    from ..page import Page


@command("status")
@click.argument("name", required=False)
def status(run: Run, name: str | None) -> int:
    """Show what is being served. Exit code 3: the deployment NAME does not run."""
    from advisor import api
    from advisor.facts.schemas import DeploymentsData

    from ..views import deployments as view

    if name is None:
        found, warnings = api.survey(settings=run.settings)
    else:
        found, warnings = api.status(name, settings=run.settings), ()

    def human(page: Page) -> None:
        view.deployments(page, found, verbose=run.verbose or name is not None)
        view.mending(page, found)

    run.sink.result(
        run.command,
        DeploymentsData(deployments=found),
        human=human,
        quiet=view.bare(found),
        warnings=warnings,
    )
    return EXIT_OK if name is None or all(d.state in ALIVE for d in found) else EXIT_NO


@command("down")
@click.argument("name", required=False)
@option("--all", "everything", is_flag=True, help="Stop all deployments.")
def down(run: Run, name: str | None, everything: bool) -> None:
    """Stop the deployment NAME, the only one that runs, or all of them."""
    from advisor import api
    from advisor.facts.schemas import DeploymentsData

    from ..views import deployments as view

    if everything and name is not None:
        raise AdvisorError("contradictory-options", f"--all and the name {name!r} exclude each other.")
    if not everything and name is None:
        name = the_one(run, running=True)
    stopped = api.down(name, all=everything, settings=run.settings) if everything or name is not None else ()
    run.sink.result(
        run.command,
        DeploymentsData(deployments=stopped),
        human=lambda page: view.stopped(page, stopped, verbose=run.verbose),
        quiet=tuple(d.name for d in stopped),
    )


@command("restart")
@click.argument("name", required=False)
def restart(run: Run, name: str | None) -> None:
    """Stop the deployment NAME, or the only one there is, and start it again."""
    from advisor import api
    from advisor.facts.schemas import DeploymentsData

    from ..views import deployments as view

    name = name or str(the_one(run))
    with run.working() as work:
        started = api.restart(name, settings=run.settings, reporter=work.reporter, cancel=work.cancel)
    run.sink.result(
        run.command,
        DeploymentsData(deployments=(started,)),
        human=lambda page: view.deployments(page, (started,), verbose=True),
        quiet=(started.openai_base_url,),
    )


@command("logs")
@click.argument("name", required=False)
@option("-f", "--follow", is_flag=True, help="Show the last lines, then go on with new ones until interrupted.")
@option("-n", "--lines", type=COUNT, default=100, show_default=True, help="Show so many lines.")
def logs(run: Run, name: str | None, follow: bool, lines: int) -> None:
    """Show the log of the deployment NAME, or of the only one there is."""
    from advisor import api
    from advisor.facts.schemas import LogLine, LogsData

    name = name or str(the_one(run))
    if follow:
        for line in api.follow(name, lines=lines, settings=run.settings):
            run.sink.line(line, LogLine(name=name, line=line))
        return
    told = api.logs(name, lines=lines, settings=run.settings)
    run.sink.result(
        run.command,
        LogsData(deployments=api.status(name, settings=run.settings), lines=told),
        human=lambda page: page.lines("\n".join(told)),
        quiet=told,
    )
