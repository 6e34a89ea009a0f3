"""Which deployment is meant where none is named: the only one there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.errors import AdvisorError
from advisor.facts.shown import listed

if TYPE_CHECKING:
    from advisor.facts.results import Deployment

    from .run import Run

ALIVE: Final = ("starting", "loading", "ready", "unhealthy")


def the_one(run: Run, *, running: bool = False) -> str | None:
    """The name of the only deployment that runs, else of the only one there is; it is told on standard error.

    Args:
        run: the command line.
        running: only what runs counts, and that nothing runs is no failure.

    Returns:
        The name; ``None`` where nothing runs and only what runs counts.

    Raises:
        AdvisorError: ``usage`` with the names where there are several, ``deployment-not-found`` where there is none.
    """
    from advisor import api

    found, _ = api.survey(settings=run.settings)
    alive = [d for d in found if d.state in ALIVE]
    meant: list[Deployment] = alive if alive or running else list(found)
    if len(meant) == 1:
        runs = " that runs" if alive and len(found) > 1 else ""
        run.sink.note(f"{meant[0].name}: the only deployment{runs}.")
        return meant[0].name
    if meant:
        names = [d.name for d in meant]
        raise AdvisorError(
            "usage",
            f"There are {len(names)} deployments: say {listed(names, 'or')}.",
            hint=f"advisor {run.command} {names[0]}",
            data={"names": names},
        )
    if running:
        return None
    raise AdvisorError("deployment-not-found", "Nothing is deployed.", hint="advisor up")
