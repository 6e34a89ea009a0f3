"""Planning around advisor's own deployments: what they were promised is taken, also where the kernel calls it free.

Mapped weights are page cache: ``MemAvailable`` counts them as available though a server reads them for every token, and
a server that is still loading has not taken what it will. So of each deployment that runs its plan's host memory counts
as taken, less what it holds for good by now (which the kernel does not count as available any more).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.api import keeping, receipts
from advisor.errors import AdvisorError
from advisor.facts.plan import Occupant, Plan, Warning_
from advisor.facts.shown import size
from advisor.planner.devices import whole

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.facts.machine import Device, Machine
    from advisor.facts.results import Deployment
    from advisor.planner.beside import Beside
    from advisor.settings import Settings

_HOST: Final = "host"
_GROWING: Final = ("starting", "loading")


class Taken(NamedTuple):
    """One deployment's memory by device key, in bytes. ``held``: of the host's, what cannot be taken back from it;
    ``share``: of each of its devices, what its runtime reserves when it starts."""

    name: str
    plan_id: str
    promised: dict[str, int]
    held: int
    growing: bool
    model: str = ""
    started_at: str | None = None
    share: float | None = None

    def on(self, device: Device) -> int:
        """Bytes of a device that it takes, once it has loaded."""
        promised = self.promised.get(device.id, 0)
        if not promised or self.share is None or device.memory.total_bytes is None:
            return promised
        return max(promised, int(self.share * device.memory.total_bytes))


class Neighbours(NamedTuple):
    """This machine as it was probed, and the deployments that run on it. ``given``: names of those that count as gone,
    because they will be replaced or reused."""

    probed: Machine
    found: tuple[Taken, ...]
    given: frozenset[str] = frozenset()

    @property
    def others(self) -> tuple[Taken, ...]:
        """Those that stay."""
        return tuple(t for t in self.found if t.name not in self.given)

    def machine(self, gone: Collection[str] = ()) -> Machine:
        """The machine with the memory of deployments taken, ``gone`` and ``given`` ones apart, whose memory is free."""
        away = self.given | set(gone)
        if not self.found:
            return self.probed
        host = self.probed.host.memory
        available = host.available_bytes
        if available is not None:
            more = sum(-t.held if t.name in away else max(0, t.promised.get(_HOST, 0) - t.held) for t in self.found)
            available = max(0, min(available - more, host.limit_bytes or host.total_bytes))
        return self._with(self.probed, available, lambda d: self._free(d, away))

    def alone(self) -> Machine:
        """The machine with nothing but the deployments that stay on it."""
        empty = whole(self.probed)
        if not self.others:
            return empty
        host = empty.host.memory
        most = min(v for v in (host.total_bytes, host.limit_bytes) if v is not None)
        available = max(0, most - sum(t.promised.get(_HOST, 0) for t in self.others))

        def left(d: Device) -> int | None:
            taken = sum(t.on(d) for t in self.others)
            known = d.memory.usable_bytes
            return d.memory.free_bytes if not taken or known is None else max(0, known - taken)

        return self._with(empty, available, left)

    def _free(self, d: Device, away: Collection[str]) -> int | None:
        """Free bytes of a device: what still loads is to come, what has loaded and goes is given back."""
        free = d.memory.free_bytes
        if free is None:
            return None
        coming = sum(t.on(d) for t in self.found if t.growing and t.name not in away)
        back = sum(t.on(d) for t in self.found if not t.growing and t.name in away)
        most = d.memory.usable_bytes if d.memory.usable_bytes is not None else d.memory.total_bytes
        free = max(0, free - coming) + back
        return free if most is None else min(free, max(most, d.memory.free_bytes or 0))

    def _with(self, machine: Machine, available: int | None, free: Callable[[Device], int | None]) -> Machine:
        memory = msgspec.structs.replace(machine.host.memory, available_bytes=available)
        devices = tuple(
            d
            if (now := free(d)) == d.memory.free_bytes
            else msgspec.structs.replace(d, memory=msgspec.structs.replace(d.memory, free_bytes=now))
            for d in machine.devices
        )
        return msgspec.structs.replace(
            machine, host=msgspec.structs.replace(machine.host, memory=memory), devices=devices
        )

    def warnings(self) -> tuple[Warning_, ...]:
        """That it is planned beside others, where any stay."""
        if not self.others:
            return ()
        told = ", ".join(f"{t.name} ({size(sum(t.promised.values()))})" for t in self.others)
        message = f"Planned beside what runs here: {told}; `advisor down NAME` frees it, --total plans without it."
        return (Warning_(code="deployments-running", message=message),)

    def beside(self, seen_as: Callable[[Machine], Machine] = lambda machine: machine) -> Beside:
        """For the planner, which finds out whose end would make room. ``seen_as``: what is known of any state of this
        machine, as ceilings that were learned."""
        from advisor.planner.beside import Beside

        return Beside(
            tuple(_occupant(t) for t in self.others),
            lambda gone: seen_as(self.machine(gone)),
            seen_as(self.alone()),
        )


def neighbours(machine: Machine, settings: Settings, *, giving_back: Collection[str] = ()) -> Neighbours:
    """Who runs on this machine.

    Args:
        machine: as probed now.
        giving_back: names of deployments that will be replaced or reused: their memory counts as free.
    """
    return Neighbours(machine, taken(settings), frozenset(giving_back))


def around(
    machine: Machine, settings: Settings, *, giving_back: Collection[str] = ()
) -> tuple[Machine, tuple[Warning_, ...]]:
    """This machine with the memory of running deployments taken, and a warning that says of which; see ``neighbours``
    for the arguments."""
    there = neighbours(machine, settings, giving_back=giving_back)
    return there.machine(), there.warnings()


def taken(settings: Settings) -> tuple[Taken, ...]:
    """What each running deployment was promised and holds, by name; those of which nothing is known are left out."""
    if not settings.paths.deployments.is_dir():
        return ()
    from advisor.api.serving import manager
    from advisor.deploy.observe import ACTIVE

    m = manager(settings)
    out = []
    for d in m.survey().deployments:
        found = _promised(settings, m, d) if d.state in ACTIVE else None
        if found is not None:
            promised, share = found
            out.append(
                Taken(
                    d.name, d.plan_id, promised, _held(m, d.name), d.state in _GROWING, d.model, d.started_at, share
                )
            )  # fmt: skip
    return tuple(out)


@contextmanager
def blaming(settings: Settings, fits: Callable[[Machine], None], *, replacing: str) -> Iterator[None]:
    """Where the block finds that a plan does not fit now, say of the fewest deployments whose end would make room:
    ``data["deployments"]`` of the error, and a line of its context.

    Args:
        fits: raises an ``AdvisorError`` where the plan does not fit a machine.
        replacing: name of the deployment that is launched.

    Raises:
        AdvisorError: what the block raises.
    """
    try:
        yield
    except AdvisorError as e:
        if e.code == "not-enough-memory":
            _blame(settings, fits, replacing, e)
        raise


def _blame(settings: Settings, fits: Callable[[Machine], None], replacing: str, error: AdvisorError) -> None:
    from advisor.api.context import this_machine
    from advisor.planner.beside import told

    def works(machine: Machine) -> bool:
        try:
            fits(machine)
        except AdvisorError:
            return False
        return True

    there = neighbours(this_machine(settings)[0], settings, giving_back=(replacing,))
    gone = there.beside().fewest(works)
    if gone:
        error.data["deployments"] = [o.to_json() for o in gone]
        ends = " && ".join(o.command for o in gone)
        error.context = (*error.context, f"with {told(gone)}, it fits: {ends}")


def _occupant(t: Taken) -> Occupant:
    return Occupant(
        name=t.name,
        model=t.model,
        plan_id=t.plan_id,
        started_at=t.started_at,
        holds=dict(sorted(t.promised.items())),
        command=f"advisor down {t.name}",
    )


def _promised(settings: Settings, m: Deployments, d: Deployment) -> tuple[dict[str, int], float | None] | None:
    """As it was launched, else by its plan; the measured peak where that is more; and the share of a device that the
    runtime reserves. ``None`` where none is known."""
    receipt = receipts.load(m.folder(d.name))
    seen = receipt.measured.memory if receipt is not None else None
    try:
        spec = m.spec(d.name)
        plan: Plan | None = None if spec.memory is not None else keeping.find(settings, d.plan_id).plan
    except AdvisorError:
        return None if seen is None else ({_HOST: int(seen.value)}, None)
    memory, chosen = (spec.memory, spec.settings) if plan is None else (plan.memory, plan.settings)
    assert memory is not None
    found = {key: int(q.value) for key, q in memory.by_device.items()}
    if seen is not None:
        found[_HOST] = max(found.get(_HOST, 0), int(seen.value))
    return found, chosen.gpu_memory_utilization if chosen is not None else None


def _held(m: Deployments, name: str) -> int:
    from advisor.deploy.memory import unreclaimable

    try:
        return unreclaimable(m.pids(name)) or 0
    except AdvisorError:
        return 0
