"""Planning around advisor's own deployments: what they were promised is taken, also where the kernel calls it free.

Mapped weights are page cache: ``MemAvailable`` counts them as available though a server reads them for every token, and
a server that is still loading has not taken what it will. So of each deployment that runs its plan's host memory counts
as taken, less what it holds for good by now (which the kernel does not count as available any more).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.api import keeping, receipts
from advisor.errors import AdvisorError
from advisor.facts.plan import Warning_
from advisor.facts.shown import size

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.facts.machine import Device, Machine
    from advisor.facts.results import Deployment
    from advisor.settings import Settings

_HOST: Final = "host"
_GROWING: Final = ("starting", "loading")


class Taken(NamedTuple):
    """One deployment's memory by device key, in bytes. ``held``: of the host's, what cannot be taken back from it."""

    name: str
    plan_id: str
    promised: dict[str, int]
    held: int
    growing: bool


def around(
    machine: Machine, settings: Settings, *, giving_back: Collection[str] = ()
) -> tuple[Machine, tuple[Warning_, ...]]:
    """This machine with the memory of running deployments taken, and a warning that says of which.

    Args:
        machine: as probed now.
        giving_back: ids of plans whose deployments will be replaced or reused: their memory counts as free.
    """
    found = taken(settings)
    if not found:
        return machine, ()
    host = machine.host.memory
    available = host.available_bytes
    if available is not None:
        more = 0
        for t in found:
            more += -t.held if t.plan_id in giving_back else max(0, t.promised.get(_HOST, 0) - t.held)
        available = max(0, min(available - more, host.limit_bytes or host.total_bytes))
    memory = msgspec.structs.replace(host, available_bytes=available)
    growing = [t for t in found if t.growing and t.plan_id not in giving_back]
    changed = msgspec.structs.replace(
        machine,
        host=msgspec.structs.replace(machine.host, memory=memory),
        devices=tuple(_less(d, sum(t.promised.get(d.id, 0) for t in growing)) for d in machine.devices),
    )
    others = [t for t in found if t.plan_id not in giving_back]
    if not others:
        return changed, ()
    told = ", ".join(f"{t.name} ({size(sum(t.promised.values()))})" for t in others)
    return changed, (
        Warning_(
            code="deployments-running",
            message=f"Planned beside what runs here: {told}; `advisor down NAME` frees it, --total plans without it.",
        ),
    )


def taken(settings: Settings) -> tuple[Taken, ...]:
    """What each running deployment was promised and holds, by name; those of which nothing is known are left out."""
    if not settings.paths.deployments.is_dir():
        return ()
    from advisor.api.serving import manager
    from advisor.deploy.observe import ACTIVE

    m = manager(settings)
    out = []
    for d in m.survey().deployments:
        promised = _promised(settings, m, d) if d.state in ACTIVE else None
        if promised is not None:
            out.append(Taken(d.name, d.plan_id, promised, _held(m, d.name), d.state in _GROWING))
    return tuple(out)


def _promised(settings: Settings, m: Deployments, d: Deployment) -> dict[str, int] | None:
    """As it was launched, else by its plan; the measured peak where that is more. ``None`` where none is known."""
    receipt = receipts.load(m.folder(d.name))
    seen = receipt.measured.memory if receipt is not None else None
    try:
        memory = m.spec(d.name).memory or keeping.find(settings, d.plan_id).plan.memory
    except AdvisorError:
        return None if seen is None else {_HOST: int(seen.value)}
    found = {key: int(q.value) for key, q in memory.by_device.items()}
    if seen is not None:
        found[_HOST] = max(found.get(_HOST, 0), int(seen.value))
    return found


def _held(m: Deployments, name: str) -> int:
    from advisor.deploy.memory import unreclaimable

    try:
        return unreclaimable(m.pids(name)) or 0
    except AdvisorError:
        return 0


def _less(d: Device, promised: int) -> Device:
    free = d.memory.free_bytes
    if not promised or free is None:
        return d
    return msgspec.structs.replace(d, memory=msgspec.structs.replace(d.memory, free_bytes=max(0, free - promised)))
