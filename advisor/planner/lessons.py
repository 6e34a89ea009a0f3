"""What out-of-memory taught about this machine: how a shortage is read, and how later predictions follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from advisor.cost.llama_memory import device_context
from advisor.facts.machine import Machine
from advisor.facts.plan import Memory, Plan
from advisor.facts.quantity import Quantity
from advisor.facts.recovery import Diagnosis, KernelLesson, MemoryLesson
from advisor.planner.costing import HEADROOM, CostFn, host_capacity
from advisor.planner.devices import device_capacity
from advisor.planner.ladder import HOST, need

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost

# A server that was seen to want this much may want a little more in the next run.
_MARGIN: Final = 1.05
# Nothing that a server takes is worse predicted than this; beyond it something else is wrong.
_MOST_RATIO: Final = 4.0
RESET: Final = "advisor bench --forget"


class Shortage(NamedTuple):
    """How many bytes a plan lacked on a device, and what is to be learned; ``lesson`` is ``None`` where the machine
    itself shows why."""

    device: str
    missing_bytes: int
    lesson: MemoryLesson | None


def capacity(machine: Machine, key: str) -> int | None:
    """Bytes of a memory that can be had now, as the system tells; ``None`` where it does not.

    Unified memory is the host's.
    """
    if key == HOST:
        return host_capacity(machine)
    for d in machine.devices:
        if d.id == key:
            return host_capacity(machine) if d.unified_memory else device_capacity(d)
    return None


def shortage(
    plan: Plan, diagnosis: Diagnosis, machine: Machine, *, boot: str, at: str, again: bool = False
) -> Shortage:
    """What a plan lacked that ran out of memory as ``diagnosis`` says, on ``machine`` as it is now.

    Where the system shows less memory than the plan takes, that is the reason and nothing is learned. Where a server
    got as far as was predicted or farther, it needs more than predicted: the ratio is learned. Where it was refused
    before that, less can be had than the system tells: what the runtime itself said is there, else half way between
    what the server had and what it had asked for, is the ceiling until the next boot. ``again``: that was tried and
    did not do, so nothing beyond what it had is counted on.
    """
    device = diagnosis.device
    predicted = need(plan, device)
    has = capacity(machine, device)
    usable = None if has is None else int(has * (1 - HEADROOM))
    if usable is not None and predicted > usable:
        return Shortage(device, predicted - usable, None)
    held = diagnosis.had_bytes
    if held is not None and device != HOST:  # a log tells of buffers; plans count what the driver takes beside them
        held += int(device_context(machine, device).value)
    reached = (held or 0) + (diagnosis.wanted_bytes or 0)
    lesson = MemoryLesson(
        runtime=plan.runtime,
        device=_name(machine, device),
        device_key=device,
        plan=plan.id,
        code=diagnosis.code,
        predicted_bytes=predicted,
        learned_at=at,
    )

    def at_most(ceiling: int) -> Shortage:
        missing = max(1, predicted - int(ceiling * (1 - HEADROOM)))
        return Shortage(device, missing, msgspec.structs.replace(lesson, ceiling_bytes=ceiling, boot=boot))

    if device == HOST and has is not None:
        group = diagnosis.limit_bytes
        if group is not None and group < has:  # the server lives in a group that this process is not in
            has, usable = group, int(group * (1 - HEADROOM))
            if predicted > usable:
                return at_most(group)
        if diagnosis.oom_kills and diagnosis.exit_signal is not None:
            reached = max(reached, has)  # the kernel kills when all is taken
    if predicted and reached >= predicted:
        ratio = round(min(_MOST_RATIO, _MARGIN * reached / predicted), 4)
        corrected = int(predicted * ratio)
        if usable is None or corrected > usable:
            missing = corrected - (usable if usable is not None else predicted)
            return Shortage(device, max(1, missing), msgspec.structs.replace(lesson, ratio=ratio))
    told, wanted = diagnosis.available_bytes, diagnosis.wanted_bytes
    asked = min(predicted, reached) if reached else predicted
    if told is not None and wanted is not None and wanted > told:  # the runtime has done the sum itself
        ceiling = max(0, predicted - (wanted - told))
    else:
        had = min(held or 0, asked)
        ceiling = max(had, asked // 2) if again or not had else (had + asked) // 2
    return at_most(ceiling)


def _name(machine: Machine, key: str) -> str:
    return next((d.name for d in machine.devices if d.id == key), HOST)


class Lessons:
    """What was learned of a machine's memory; ``boot`` is the current one, in which ceilings hold. ``kernels``: what
    was learned beside that of runtimes, as it is kept."""

    def __init__(self, lessons: Iterable[MemoryLesson], *, boot: str, kernels: tuple[KernelLesson, ...] = ()) -> None:
        self.kernels = kernels
        self.lessons = tuple(x for x in lessons if x.ceiling_bytes is None or (x.boot and x.boot == boot))

    def __bool__(self) -> bool:
        return bool(self.lessons or self.kernels)

    def limited(self, machine: Machine) -> Machine:
        """The machine with no more memory than could be had when a server ran out of it."""
        ceilings: dict[str, int] = {}
        for x in self.lessons:
            if x.ceiling_bytes is not None:
                ceilings[x.device] = min(ceilings.get(x.device, x.ceiling_bytes), x.ceiling_bytes)
        if not ceilings:
            return machine
        memory = machine.host.memory
        if HOST in ceilings:
            there = min(v for v in (memory.available_bytes, ceilings[HOST]) if v is not None)
            memory = msgspec.structs.replace(memory, available_bytes=there)
        devices = []
        for d in machine.devices:
            if d.name in ceilings:
                known = [v for v in (d.memory.free_bytes, ceilings[d.name]) if v is not None]
                d = msgspec.structs.replace(d, memory=msgspec.structs.replace(d.memory, free_bytes=min(known)))
            devices.append(d)
        host = msgspec.structs.replace(machine.host, memory=memory)
        return msgspec.structs.replace(machine, host=host, devices=tuple(devices))

    def ratio(self, machine: Machine, runtime: str, key: str) -> MemoryLesson | None:
        """The lesson on what a runtime needs on a device key by what is predicted; the largest of several."""
        name = _name(machine, key)
        own = [x for x in self.lessons if x.ratio is not None and (x.runtime, x.device) == (runtime, name)]
        return max(own, key=lambda x: x.ratio or 0.0, default=None)

    def cost_function(self, machine: Machine, base: CostFn | None) -> CostFn | None:
        """``base`` (``cost.estimate.cost`` where it is ``None``) with memory as it was learned; ``base`` itself where
        no ratio is known."""
        if not any(x.ratio is not None for x in self.lessons):
            return base
        if base is None:
            from advisor.cost.estimate import cost

            base = cost
        return self._overlaid(machine, base)

    def _overlaid(self, machine: Machine, base: Callable[..., Cost]) -> Callable[..., Cost]:
        def overlaid(*args: Any, **named: Any) -> Cost:
            found = base(*args, **named)
            memory, words = self.corrected(found.memory, machine, named["runtime"], named["devices"])
            if not words:
                return found
            return msgspec.structs.replace(found, memory=memory, assumptions=(*found.assumptions, *words))

        return overlaid

    def corrected(
        self, memory: Memory, machine: Machine, runtime: str, devices: Sequence[str]
    ) -> tuple[Memory, tuple[str, ...]]:
        """Memory with the learned ratios, and what was corrected in words; what is added counts as overhead."""
        parts = memory.by_device or {(tuple(devices) or (HOST,))[0]: memory.total}
        by_device, words, added = dict(parts), [], 0
        for key, q in parts.items():
            lesson = self.ratio(machine, runtime, key)
            if lesson is None or lesson.ratio is None or lesson.ratio <= 1:
                continue
            source = f"{q.source}; x{lesson.ratio:.2f}, {_source(lesson)}"
            by_device[key] = _scaled(q, lesson.ratio, source)
            added += int(by_device[key].value) - int(q.value)
            words.append(f"memory on {key} is taken as {lesson.ratio:.2f} times the formula's: {_source(lesson)}")
        if not words:
            return memory, ()
        source = f"{memory.overhead.source}; with what was learned on this machine"
        overhead = _plus(memory.overhead, added, source)
        total = _plus(memory.total, added, f"{memory.total.source}; corrected by what was learned on this machine")
        new = by_device if memory.by_device else {}
        return msgspec.structs.replace(memory, overhead=overhead, total=total, by_device=new), tuple(words)

    def notes(self, machine: Machine) -> tuple[str, ...]:
        """What of the machine's memory plans do not count on, in sentences with their source."""
        out = []
        for x in self.lessons:
            whole = capacity(machine, x.device_key) if _name(machine, x.device_key) == x.device else None
            if x.ceiling_bytes is not None and (whole is None or whole > x.ceiling_bytes):
                out.append(
                    f"At most {x.ceiling_bytes / 2**20:.0f} MiB of {x.device} are counted on, {_source(x)}; "
                    f"until the next boot, or: {RESET}"
                )
        return tuple(dict.fromkeys(out))


def lifted(lessons: Sequence[MemoryLesson], *, device: str, bytes_: int) -> tuple[MemoryLesson, ...]:
    """The lessons without the ceilings that a server of ``bytes_`` on ``device`` has disproved."""
    return tuple(x for x in lessons if x.ceiling_bytes is None or x.device != device or x.ceiling_bytes >= bytes_)


def _source(lesson: MemoryLesson) -> str:
    day = f" on {lesson.learned_at[:10]}" if lesson.learned_at else ""
    return f"learned on this machine{day} when plan {lesson.plan} of {lesson.runtime} ran out of memory"


def _scaled(q: Quantity, ratio: float, source: str) -> Quantity:
    value = int(q.value * ratio)
    return msgspec.structs.replace(
        q, value=value, low=min(int(q.low * ratio), value), high=max(int(q.high * ratio), value), method="fit",
        source=source,
    )  # fmt: skip


def _plus(q: Quantity, added: int, source: str) -> Quantity:
    return msgspec.structs.replace(
        q, value=q.value + added, low=q.low + added, high=q.high + added, method="fit", source=source
    )
