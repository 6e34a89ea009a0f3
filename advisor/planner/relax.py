"""Where nothing fits: what would have to give, found by really planning again with one thing moved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from advisor.facts.machine import Device, Machine
from advisor.facts.plan import Goal, PlanRequest, Relaxation
from advisor.planner.building import build
from advisor.planner.candidate import usable_devices
from advisor.planner.devices import device_capacity, whole
from advisor.planner.request import MIN_CONTEXT, effective_goal

if TYPE_CHECKING:
    from advisor.planner.recommend import Planner

_GIB: Final = 1024**3
_WISHES: Final = (
    ("format", "--format"),
    ("method", "--method"),
    ("runtime", "--runtime"),
    ("quantizer", "--quantizer"),
    ("max_memory_bytes", "--max-memory"),
    ("min_tps", "--min-tps"),
    ("min_quality", "--min-quality"),
    ("within_s", "--within"),
)
_MOST_HOST: Final = 4096 * _GIB


def relaxations(
    planner: Planner, machine: Machine, goal: Goal, request: PlanRequest, *, executable_here: bool
) -> tuple[Relaxation, ...]:
    """The changes, each alone, after which there is a plan; with that plan."""
    out = []
    for change, where, wanted, here in _changes(planner, machine, goal, request):
        found = planner.plan(where, goal, wanted)
        if found.kept:
            plan = build(
                planner.model,
                found.kept[0],
                rank=1,
                executable_here=executable_here and here,
                notes=found.notes,
                per_slot=found.goal.context,
            )
            out.append((change, plan))
    return tuple(Relaxation(change=change, plan=plan) for change, plan in out)


def _changes(
    planner: Planner, machine: Machine, goal: Goal, request: PlanRequest
) -> Iterator[tuple[str, Machine, PlanRequest, bool]]:
    """(what is moved, machine, request, still this machine). Of a series only the smallest step that helps is tried."""

    def move(**values: object) -> PlanRequest:
        return msgspec.structs.replace(request, **values)

    def works(where: Machine, wanted: PlanRequest) -> bool:
        return bool(planner.plan(where, goal, wanted).kept)

    effective, _ = effective_goal(goal, request, planner.model)
    shortest = move(context=MIN_CONTEXT)
    if effective.context > MIN_CONTEXT and works(machine, shortest):
        context = effective.context // 2
        while context > MIN_CONTEXT and not works(machine, move(context=context)):
            context //= 2
        context = max(context, MIN_CONTEXT)
        yield f"context {effective.context} -> {context}", machine, move(context=context), True
    if effective.parallel > 1:
        yield f"parallel {effective.parallel} -> 1", machine, move(parallel=1), True
    if (request.kv_type or "f16") in ("f16", "bf16", "f32"):
        yield f"kv-type {request.kv_type or 'f16'} -> q8_0", machine, move(kv_type="q8_0"), True
    for name, option in _WISHES:
        value = getattr(request, name)
        if value is not None:
            yield (
                f"without {option} {value:g}" if isinstance(value, int | float) else f"without {option} {value}",
                (machine),
                move(**{name: None}),
                True,
            )
    if request.no_download:
        yield "without --no-download", machine, move(no_download=False), True
    idle = _idle(machine)
    if idle is not None:
        yield "other programs closed, so that all memory is free", idle, request, True
    yield from _hardware(machine, request, works)


def _idle(machine: Machine) -> Machine | None:
    """The same machine with nothing else running; ``None`` where nothing else runs."""
    idle = whole(machine)
    return idle if idle != machine else None


def _hardware(
    machine: Machine, request: PlanRequest, works: object
) -> Iterator[tuple[str, Machine, PlanRequest, bool]]:
    assert callable(works)
    devices = usable_devices(machine)
    if devices:
        first = max(devices, key=lambda d: device_capacity(d) or 0)
        # A bought one is idle, whole and another one.
        memory = msgspec.structs.replace(first.memory, free_bytes=None)
        twin = msgspec.structs.replace(
            first, id=_next_id(machine.devices), memory=memory, processes=None, uuid=None, pci=None
        )
        doubled = msgspec.structs.replace(machine, devices=(*machine.devices, twin))
        yield f"a second {first.name}", doubled, request, False
    if any(d.unified_memory for d in devices):
        return
    size = 2 * _GIB
    have = machine.host.memory.limit_bytes or machine.host.memory.total_bytes
    largest = _with_memory(machine, _MOST_HOST)
    if not works(largest, request):
        return
    while size < _MOST_HOST:
        size *= 2
        if size <= have:
            continue
        larger = _with_memory(machine, size)
        if size == _MOST_HOST or works(larger, request):
            yield f"host memory {have / _GIB:.0f} GiB -> {size // _GIB} GiB", larger, request, False
            return


def _with_memory(machine: Machine, size: int) -> Machine:
    memory = msgspec.structs.replace(machine.host.memory, total_bytes=size, limit_bytes=None, available_bytes=size)
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, memory=memory))


def _next_id(devices: tuple[Device, ...]) -> str:
    taken = {d.id for d in devices}
    return next(f"gpu{i}" for i in range(len(taken) + 1) if f"gpu{i}" not in taken)
