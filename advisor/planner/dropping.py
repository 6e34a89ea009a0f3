"""Which of the dropped candidates speak for the rest: one line for each method, runtime and rule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from advisor.facts.machine import Machine
from advisor.facts.plan import PlanRequest, Rejected
from advisor.planner.costing import host_capacity
from advisor.planner.devices import device_capacity
from advisor.planner.legal import Legal
from advisor.planner.targets import usable_devices

if TYPE_CHECKING:
    from advisor.planner.recommend import Drop, Round

PLACE_ORDER: Final = {"gpu": 0, "split": 1, "cpu": 2}


def rejected(found: Round, request: PlanRequest, machine: Machine, *, closest: bool) -> tuple[Rejected, ...]:
    """One line for each method, runtime and rule; a choice that runs somewhere on the machine is not rejected.

    Of the places where a choice could not run the one nearest to running speaks: the least short of memory, else the
    accelerator. Where nothing fits (``closest``) the line is per format, and the closest come first.
    """
    runs = {(s.candidate.method, s.candidate.format, s.candidate.runtime) for s in found.kept}
    nearest: dict[tuple[str, str, str], Drop] = {}
    for d in found.dropped:
        c = d.candidate
        choice = (c.method, c.format, c.runtime)
        if choice not in runs and (choice not in nearest or _distance(d) < _distance(nearest[choice])):
            nearest[choice] = d
    best: dict[tuple[str, ...], Drop] = {}
    for d in nearest.values():
        c = d.candidate
        key = (c.method, c.runtime, d.rule.id) + ((c.format,) if closest and d.short_by is not None else ())
        if key not in best or _typical(d) < _typical(best[key]):
            best[key] = d
    chosen = list(best.values())
    legal = Legal(found)
    room = host_capacity(machine) + sum(device_capacity(d) or 0 for d in usable_devices(machine))
    missed = {id(d): d.misses(request, room) for d in chosen}
    if closest:
        # By the worst limit that it misses, as a share of the limit; what other rules forbid is no near miss.
        share = {id(d): max((m.share for m in missed[id(d)]), default=math.inf) for d in chosen}
        chosen.sort(key=lambda d: (not d.late, share[id(d)], d.rule.id, d.candidate.key))
    else:
        chosen.sort(key=lambda d: (d.rule.id, d.candidate.key))
    return tuple(
        Rejected(
            method=d.candidate.method,  # type: ignore[arg-type]
            format=d.candidate.format,
            runtime=d.candidate.runtime,  # type: ignore[arg-type]
            rule=d.rule.id,
            because=d.because,
            short_by=d.short_by,
            instead=legal.of(d.rule.instead, d.candidate.method),
            misses=tuple(m.text for m in missed[id(d)]),
            devices=d.candidate.target.keys if d.late else (),
        )
        for d in chosen
    )


def _distance(d: Drop) -> tuple[object, ...]:
    return (d.short_by is None, d.short_by or 0, PLACE_ORDER[d.candidate.target.placement], d.rule.id, d.candidate.key)


def _typical(d: Drop) -> tuple[object, ...]:
    """The format that speaks for several: the least short of memory, then the guide's default."""
    return (d.short_by or 0, d.candidate.format != "q4_k_m", d.candidate.key)
