"""Which machine is planned for: this one as it is now, a recorded one, or one that is named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from advisor import datafiles
from advisor.api import sharing
from advisor.api.context import bundle_or_probe
from advisor.api.options import MachineOptions, several
from advisor.errors import AdvisorError
from advisor.facts.machine import Machine
from advisor.facts.plan import Warning_
from advisor.facts.text import clean
from advisor.planner.devices import whole

if TYPE_CHECKING:
    from advisor.api.sharing import Neighbours
    from advisor.settings import Settings


def target_machine(
    settings: Settings,
    *,
    machine: Machine | Path | None,
    options: MachineOptions,
) -> tuple[Machine, tuple[Warning_, ...], bool]:
    """The machine to plan for, and whether plans for it can be carried out here.

    A named device replaces the machine, so it cannot be named beside another one that was recorded; sizes can be
    changed on either.

    Raises:
        AdvisorError: ``hardware-not-found``, ``bad-machine-file``, ``contradictory-options``.
    """
    return planned_for(settings, machine, options)[:3]


def planned_for(
    settings: Settings, machine: Machine | Path | None, options: MachineOptions, giving_back: Collection[str] = ()
) -> tuple[Machine, tuple[Warning_, ...], bool, Neighbours | None]:
    """As ``target_machine``, and who runs on it where it is this one as it is now."""
    there: Neighbours | None = None
    named = tuple(h for h in several(options.get("hardware", ())) if h != "this")
    if named and isinstance(machine, Path):
        raise AdvisorError(
            "contradictory-options",
            f"--machine {clean(str(machine))} and --hardware {clean(' '.join(named))} name two machines.",
            hint=f"advisor recommend --hardware {clean(named[0])}",
        )
    if isinstance(machine, Machine):
        base, here = machine, machine.named is None
        warnings: tuple[Warning_, ...] = ()
    else:
        base, warnings, here = bundle_or_probe(machine, settings)
        if here and not named and not options.get("total"):
            there = sharing.neighbours(base, settings, giving_back=giving_back)
            base = there.machine()
            warnings += there.warnings()
    if options.get("total"):
        base = whole(base)
    memory, vram, bandwidth = options.get("memory"), options.get("vram"), options.get("bandwidth")
    if not named and memory is None and vram is None and bandwidth is None:
        return base, warnings, here, there
    from advisor.probes.catalog import machine_from

    overlay = datafiles.overlay_dir(settings.paths.config, "profiles/hardware")
    found = machine_from(named, memory=memory, vram=vram, bandwidth=bandwidth, base=base, overlay=overlay)
    return found, warnings, False, None
