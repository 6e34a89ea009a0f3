"""Deployments: looking at them and ending them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from advisor.api.context import load_settings
from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter
from advisor.facts.results import Deployment

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.deploy.registry import Survey
    from advisor.settings import Settings


def manager(settings: Settings) -> Deployments:
    """The deployments of these settings, told by each runtime's own sign of readiness."""
    from advisor.backends.registry import runtimes
    from advisor.deploy.manager import Deployments

    return Deployments(settings.paths.deployments, ready_of=lambda name: runtimes()[name].ready)


def deployments(*, settings: Settings | None = None) -> tuple[Deployment, ...]:
    """All deployments, as observed now."""
    return manager(load_settings(settings)).list()


def survey(*, settings: Settings | None = None) -> Survey:
    """All deployments as observed now, and a warning for each whose state cannot be read or trusted."""
    return manager(load_settings(settings)).survey()


def status(name: str | None = None, *, settings: Settings | None = None) -> tuple[Deployment, ...]:
    """One deployment, or all, as observed now.

    Raises:
        AdvisorError: ``deployment-not-found``, ``state-unreadable``.
    """
    if name is None:
        return deployments(settings=settings)
    return (manager(load_settings(settings)).get(name),)


def down(
    name: str | None = None,
    *,
    all: bool = False,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> tuple[Deployment, ...]:
    """End one deployment or all; ending what does not run does nothing.

    Raises:
        AdvisorError: ``deployment-not-found``, ``contradictory-options``, ``bad-option``, ``server-failed`` where
            processes do not die.
    """
    if name is not None and all:
        raise AdvisorError("contradictory-options", "Name a deployment or say --all, not both.", hint="advisor status")
    m = manager(load_settings(settings))
    if name is not None:
        return (m.stop(name, cancel=cancel),)
    if not all:
        raise AdvisorError("bad-option", "Name the deployment to end, or say --all.", hint="advisor status")
    return tuple(m.stop(n, cancel=cancel) for n in m.names())


def restart(
    name: str,
    *,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Deployment:
    """End a deployment and start it again from what it was started from.

    One that does not run has given its memory away: it is looked for before anything is started.

    Raises:
        AdvisorError: ``deployment-not-found``, ``not-enough-memory``, ``port-taken``, ``server-failed``,
            ``server-timeout``.
    """
    s = load_settings(settings)
    m = manager(s)
    _still_fits(s, m, name)
    return m.restart(name, reporter=reporter, cancel=cancel)


def _still_fits(settings: Settings, m: Deployments, name: str) -> None:
    from advisor.api import keeping, planning, sharing
    from advisor.deploy.observe import ACTIVE
    from advisor.execute import preflight

    spec = m.spec(name)
    if spec.memory is None or m.get(name).state in ACTIVE:
        return
    try:
        plan = keeping.find(settings, spec.plan_id).plan
    except AdvisorError:  # it is not kept any more, and the launch will show
        return
    now = msgspec.structs.replace(plan, memory=spec.memory, settings=spec.settings or plan.settings, making_memory=None)
    with sharing.blaming(settings, lambda machine: preflight.check_memory(now, machine), replacing=name):
        preflight.check_memory(now, planning.own_machine(settings))


def logs(name: str, *, lines: int = 100, settings: Settings | None = None) -> tuple[str, ...]:
    """The last ``lines`` lines of a deployment's log.

    Raises:
        AdvisorError: ``deployment-not-found``.
    """
    return manager(load_settings(settings)).logs(name, lines)


def follow(
    name: str, *, lines: int = 0, settings: Settings | None = None, cancel: Cancel | None = None
) -> Iterator[str]:
    """The last ``lines`` lines of a deployment's log, then new ones as they come, until it ends or ``cancel`` is set.

    Raises:
        AdvisorError: ``deployment-not-found``.
    """
    return manager(load_settings(settings)).follow(name, cancel=cancel, lines=lines)
