"""Deployments: looking at them and ending them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

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

    Raises:
        AdvisorError: ``deployment-not-found``, ``server-failed``, ``server-timeout``.
    """
    return manager(load_settings(settings)).restart(name, reporter=reporter, cancel=cancel)


def logs(name: str, *, lines: int = 100, settings: Settings | None = None) -> tuple[str, ...]:
    """The last ``lines`` lines of a deployment's log.

    Raises:
        AdvisorError: ``deployment-not-found``.
    """
    return manager(load_settings(settings)).logs(name, lines)


def follow(name: str, *, settings: Settings | None = None, cancel: Cancel | None = None) -> Iterator[str]:
    """New lines of a deployment's log as they come, until it ends or ``cancel`` is set.

    Raises:
        AdvisorError: ``deployment-not-found``.
    """
    return manager(load_settings(settings)).follow(name, cancel=cancel)
