"""``advisor status``, ``logs``, ``down`` and ``restart``."""

from __future__ import annotations

import click

from advisor.errors import AdvisorError
from advisor.facts.words import EXIT_NO, EXIT_OK

from ..command import command
from ..params import COUNT
from ..run import Run

_ALIVE = ("starting", "loading", "ready", "unhealthy")


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
    run.sink.result(
        run.command,
        DeploymentsData(deployments=found),
        human=lambda page: view.deployments(page, found, verbose=run.verbose or name is not None),
        quiet=view.bare(found),
        warnings=warnings,
    )
    return EXIT_OK if name is None or all(d.state in _ALIVE for d in found) else EXIT_NO


@command("down")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop all deployments.")
def down(run: Run, name: str | None, everything: bool) -> None:
    """Stop the deployment NAME, or all of them."""
    from advisor import api
    from advisor.facts.schemas import DeploymentsData

    from ..views import deployments as view

    if everything and name is not None:
        raise AdvisorError("contradictory-options", f"--all and the name {name!r} exclude each other.")
    if not everything and name is None:
        raise AdvisorError("usage", "Say which deployment to stop: NAME or --all.", hint="advisor status")
    stopped = api.down(name, all=everything, settings=run.settings)
    run.sink.result(
        run.command,
        DeploymentsData(deployments=stopped),
        human=lambda page: view.deployments(page, stopped, verbose=run.verbose),
        quiet=tuple(d.name for d in stopped),
    )


@command("restart")
@click.argument("name")
def restart(run: Run, name: str) -> None:
    """Stop the deployment NAME and start it again."""
    from advisor import api
    from advisor.facts.schemas import DeploymentsData

    from ..views import deployments as view

    with run.working() as work:
        started = api.restart(name, settings=run.settings, reporter=work.reporter, cancel=work.cancel)
    run.sink.result(
        run.command,
        DeploymentsData(deployments=(started,)),
        human=lambda page: view.deployments(page, (started,), verbose=True),
        quiet=(started.openai_base_url,),
    )


@command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until interrupted.")
@click.option("-n", "--lines", type=COUNT, default=100, show_default=True, help="Show so many lines.")
def logs(run: Run, name: str, follow: bool, lines: int) -> None:
    """Show the log of the deployment NAME."""
    from advisor import api
    from advisor.facts.schemas import LogLine, LogsData

    if follow:
        for line in api.follow(name, settings=run.settings):
            run.sink.line(line, LogLine(name=name, line=line))
        return
    told = api.logs(name, lines=lines, settings=run.settings)
    run.sink.result(
        run.command,
        LogsData(deployments=api.status(name, settings=run.settings), lines=told),
        human=lambda page: page.lines("\n".join(told)),
        quiet=told,
    )
