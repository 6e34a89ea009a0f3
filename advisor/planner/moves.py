"""What could be moved where nothing fits, one thing at a time; of a series the smallest step that helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from advisor.facts import shown
from advisor.facts.machine import Device, Machine
from advisor.facts.plan import GivesUp, Goal, Occupant, PlanRequest
from advisor.facts.words import GGUF_FORMATS
from advisor.planner.again import Named, number_word, size_word, time_word
from advisor.planner.beside import Beside, told
from advisor.planner.devices import device_capacity, whole
from advisor.planner.request import MIN_CONTEXT
from advisor.planner.targets import usable_devices

if TYPE_CHECKING:
    from advisor.planner.recommend import Planner

T = TypeVar("T")

_GIB: Final = 1024**3
_MOST_HOST: Final = 4096 * _GIB
_MOST_DEVICES: Final = 8
# Halvings of what the plan can hold that still leave something like what was asked for.
_SMALL: Final = 2.0
WIDE_KV: Final = ("f16", "bf16", "f32")
_NARROW_KV: Final = ("q8_0", "q4_0")
_GROUPS: Final = (128, 64, 32)
# Wishes about how it is made and served, the narrowest first: what is given up grows.
_CHOICES: Final = (
    *(("group_size", "--group-size"), ("bits", "--bits"), ("quantizer", "--quantizer"), ("runtime", "--runtime")),
    *(("format", "--format"), ("method", "--method")),
)
_COUNTED: Final = {2: "a second", 3: "a third", 4: "a fourth"}


class Move(NamedTuple):
    """One thing moved. ``amount`` orders moves of one kind, the least given up first; ``here``: it is still this
    machine; ``named``: how model and machine are named on a command line, ``None`` where no command line says it;
    ``planner``: of another model; ``ended``: deployments that have to be ended first."""

    change: str
    gives_up: GivesUp
    amount: float
    machine: Machine
    request: PlanRequest
    named: Named | None
    here: bool = True
    planner: Planner | None = None
    ended: tuple[Occupant, ...] = ()


class Asked(NamedTuple):
    """What was asked, and with what planning again tells whether there is a plan: ``works(machine, request)``."""

    machine: Machine
    goal: Goal
    request: PlanRequest
    named: Named
    works: Callable[[Machine, PlanRequest], bool]

    def with_(self, **values: object) -> PlanRequest:
        """The request with other values."""
        return msgspec.structs.replace(self.request, **values)

    def move(self, change: str, gives_up: GivesUp, amount: float, **values: object) -> Move:
        """A move of the request alone."""
        return Move(change, gives_up, amount, self.machine, self.with_(**values), self.named)


def first_that(values: Sequence[T], holds: Callable[[T], bool]) -> T | None:
    """The first value that ``holds``, where all after it hold, too; ``None`` where the last one does not. By
    bisection."""
    if not values or not holds(values[-1]):
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(values[middle]) else (middle + 1, high)
    return values[low]


def choices(asked: Asked) -> Iterator[Move]:
    """Wishes about how the model is made and served, each moved to the nearest that works, or dropped."""
    request = asked.request
    group = request.recipe.group_size
    if group is not None:
        for size in sorted((g for g in _GROUPS if g != group), key=lambda g: abs(math.log2(g / group))):
            if asked.works(asked.machine, asked.with_(recipe=msgspec.structs.replace(request.recipe, group_size=size))):
                recipe = msgspec.structs.replace(request.recipe, group_size=size)
                yield asked.move(f"group-size {group} -> {size}", "choice", 0, recipe=recipe)
                break
    yield from _nearest_format(asked)
    for order, (name, option) in enumerate(_CHOICES, 2):
        inner = name in ("group_size", "bits")
        value = getattr(request.recipe if inner else request, name)
        if value is not None:
            gone = {"recipe": msgspec.structs.replace(request.recipe, **{name: None})} if inner else {name: None}
            yield asked.move(f"without {option} {value}", "choice", order, **gone)


def _nearest_format(asked: Asked) -> Iterator[Move]:
    """Of GGUF types the largest below the one that was asked for."""
    fmt = asked.request.format
    if fmt not in GGUF_FORMATS or asked.request.method == "none":
        return
    from advisor.planner.candidate import FORMATS, bits_of

    own = bits_of(fmt) or 0.0
    below = [f for f in FORMATS["gguf"] if (bits_of(f) or 0.0) < own]
    below.sort(key=lambda f: (-(bits_of(f) or 0.0), f))
    found = first_that(below, lambda f: asked.works(asked.machine, asked.with_(format=f)))
    if found is not None:
        yield asked.move(f"format {fmt} -> {found}", "choice", 1, format=found)


def limits(asked: Asked) -> Iterator[Move]:
    """Limits of the user, each dropped."""
    request = asked.request
    if request.no_download:
        yield asked.move("without --no-download", "limit", 0, no_download=False)
    for name, option, word in (
        ("within_s", "--within", time_word),
        ("max_memory_bytes", "--max-memory", size_word),
        ("min_tps", "--min-tps", number_word),
        ("min_quality", "--min-quality", number_word),
    ):
        value = getattr(request, name)
        if value is not None:
            yield asked.move(f"without {option} {word(value)}", "limit", 1, **{name: None})


def caches(asked: Asked) -> Iterator[Move]:
    """A narrower KV cache; a wide one where the narrow one cannot be had."""
    kv = asked.request.kv_type or "f16"
    if kv not in WIDE_KV and asked.works(asked.machine, asked.with_(kv_type="f16")):
        yield asked.move(f"kv-type {kv} -> f16", "choice", 0, kv_type="f16")
        return
    narrower = _NARROW_KV if kv in WIDE_KV else _NARROW_KV[1:] if kv != "q4_0" else ()
    for word in narrower:
        if asked.works(asked.machine, asked.with_(kv_type=word)):
            yield asked.move(f"kv-type {kv} -> {word}", "capacity", 0.5 if word == "q8_0" else 1.5, kv_type=word)
            return


def capacities(asked: Asked, effective: Goal) -> Iterator[Move]:
    """A shorter context; fewer slots: halved as often as it takes."""
    yield from _halved(asked, "context", effective.context, MIN_CONTEXT)
    yield from _halved(asked, "parallel", effective.parallel, 1)


def _halved(asked: Asked, name: str, now: int, least: int) -> Iterator[Move]:
    steps = [max(least, now >> n) for n in range(1, 25) if now >> (n - 1) > least]
    found = first_that(steps, lambda n: asked.works(asked.machine, asked.with_(**{name: n})))
    if found is not None:
        halvings = math.log2(now / found)
        kind: GivesUp = "capacity" if halvings <= _SMALL else "much-capacity"
        yield asked.move(f"{name} {now} -> {found}", kind, halvings, **{name: found})


def idle(asked: Asked, beside: Beside | None = None) -> Iterator[Move]:
    """The same machine with nothing else running but advisor's own deployments, where something else runs."""
    machine = asked.machine
    free = whole(machine) if beside is None else beside.alone
    if free != machine:
        kept = "" if beside is None or not beside.there else " that deployments leave"
        change = f"other programs closed, so that all memory{kept} is free"
        yield Move(change, "nothing", 0, free, asked.request, asked.named)


def ended(asked: Asked, beside: Beside | None) -> Iterator[Move]:
    """The fewest deployments ended with which it fits; where that is not enough, with other programs closed, too."""
    if beside is None or not beside.there:
        return
    gone = beside.fewest(lambda machine: asked.works(machine, asked.request))
    if gone:
        machine = beside.without([o.name for o in gone])
        yield Move(told(gone), "deployment", len(gone), machine, asked.request, asked.named, ended=gone)
    elif not asked.works(beside.alone, asked.request):
        change = f"{told(beside.there)}, and other programs closed"
        free = whole(asked.machine)
        yield Move(change, "deployment", len(beside.there), free, asked.request, asked.named, ended=beside.there)


def hardware(asked: Asked) -> Iterator[Move]:
    """More devices like the largest one; more host memory, or more of the one memory."""
    devices = usable_devices(asked.machine)
    yield from _more_devices(asked, [d for d in devices if not d.unified_memory and d.mig is None])
    unified = next((d for d in devices if d.unified_memory), None)
    now = asked.machine.host.memory.limit_bytes or asked.machine.host.memory.total_bytes
    sizes = [s * _GIB for s in (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if s * _GIB > now * 1.05]
    found = first_that(sizes, lambda s: asked.works(_with_memory(asked.machine, s), asked.request))
    if found is not None:
        what = "memory" if unified is not None else "host memory"
        yield Move(
            f"{what} {now / _GIB:.0f} GiB -> {found // _GIB} GiB",
            "hardware",
            found - now,
            _with_memory(asked.machine, found),
            asked.request,
            asked.named._replace(memory=found),
            here=False,
        )


def _more_devices(asked: Asked, devices: list[Device]) -> Iterator[Move]:
    if not devices:
        return
    first = max(devices, key=lambda d: device_capacity(d) or 0)
    alike = sum((d.profile, d.name) == (first.profile, first.name) for d in devices)
    counts = [n for n in (alike + 1, 2, 4, 8) if alike < n <= _MOST_DEVICES]
    many = first_that(
        sorted(set(counts)), lambda n: asked.works(_with_twins(asked.machine, first, n - alike), asked.request)
    )
    if many is None:
        return
    more = many - alike
    what = f"{_COUNTED.get(many, 'one more')} {first.name}" if more == 1 else f"{many} {first.name} instead of {alike}"
    yield Move(
        what,
        "hardware",
        float(more * (first.memory.total_bytes or 0)),
        _with_twins(asked.machine, first, more),
        asked.request,
        _named_devices(asked, first, more),
        here=False,
    )


def _named_devices(asked: Asked, first: Device, more: int) -> Named | None:
    """The machine's devices and the new ones by the ids of their profiles; ``None`` where one has none."""
    counts: dict[str, int] = {}
    for d in (*usable_devices(asked.machine), *[first] * more):
        if d.profile is None:
            return None
        counts[d.profile] = counts.get(d.profile, 0) + 1
    named = asked.named._replace(hardware=tuple(f"{p}:{n}" if n > 1 else p for p, n in sorted(counts.items())))
    if named.recorded is not None:  # a recorded machine takes no other devices: its memory in this host
        memory = asked.machine.host.memory
        named = named._replace(recorded=None, memory=memory.limit_bytes or memory.total_bytes)
    return named


def _with_twins(machine: Machine, first: Device, more: int) -> Machine:
    """The machine with devices like ``first``, which are bought: idle, whole and others."""
    memory = msgspec.structs.replace(first.memory, free_bytes=None)
    taken = {d.id for d in machine.devices}
    ids = [f"gpu{i}" for i in range(len(taken) + more) if f"gpu{i}" not in taken][:more]
    twins = tuple(
        msgspec.structs.replace(first, id=key, memory=memory, processes=None, uuid=None, pci=None) for key in ids
    )
    return msgspec.structs.replace(machine, devices=(*machine.devices, *twins))


def _with_memory(machine: Machine, size: int) -> Machine:
    """The machine with ``size`` bytes of memory, all of it free; a device that shares it takes its usual part."""
    had = machine.host.memory.total_bytes
    memory = msgspec.structs.replace(machine.host.memory, total_bytes=size, limit_bytes=None, available_bytes=size)
    devices = tuple(_shared(d, size, had) if d.unified_memory else d for d in machine.devices)
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, memory=memory), devices=devices)


def _shared(device: Device, size: int, had: int) -> Device:
    reach = device.memory.usable_bytes
    grown = None if reach is None or not had else reach * size // had
    memory = msgspec.structs.replace(device.memory, total_bytes=size, usable_bytes=grown, free_bytes=None)
    return msgspec.structs.replace(device, memory=memory)


def smaller_models(asked: Asked, planner: Planner) -> Iterator[Move]:
    """The largest smaller model of the family for which there is a plan."""
    from advisor.model.tensors import tensors
    from advisor.planner.siblings import siblings

    def of(model: object) -> Planner:
        return planner.of(model, tensors(model))  # type: ignore[arg-type]

    found = first_that(
        siblings(planner.model), lambda m: bool(of(m).plan(asked.machine, asked.goal, asked.request, first=True).kept)
    )
    if found is not None:
        yield Move(
            f"{found.ref} ({shown.count(found.params)} parameters) instead of {planner.model.name}",
            "model",
            math.log2(planner.model.params / found.params),
            asked.machine,
            asked.request,
            asked.named._replace(model=(found.ref,)),
            planner=of(found),
        )
