"""Profiles of the user's own (goals, hardware, models): what is wrong with those that do not load is said in answers,
and the rest works without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts.plan import Warning_

if TYPE_CHECKING:
    from advisor.settings import Settings


def problems(settings: Settings) -> tuple[Warning_, ...]:
    """One warning for each own profile that does not load, with file, line and near misses."""
    found: list[AdvisorError] = []
    goals, hardware, models = (
        datafiles.overlay_dir(settings.paths.config, f"profiles/{kind}") for kind in ("goals", "hardware", "models")
    )
    if goals is not None:
        from advisor.planner.goals import load

        load(goals, broken=found)
    if hardware is not None:
        from advisor.probes import catalog

        catalog.own(hardware, found)
    for path in datafiles.data_files(models) if models is not None else ():
        from advisor.model.bundled import load as load_model

        try:
            load_model(path)
        except AdvisorError as e:
            found.append(e)
    return tuple(Warning_(code="bad-profile", message=e.message) for e in found)
