"""A plan with a part of a model on devices, refined by what the engine itself says it would allocate there.

The formulas give every layer its upper bound, so that they may leave room for one or two more. They are fast and rank
the plans; before the chosen one is launched, the engine is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from advisor.cost.estimate import cost
from advisor.cost.gguf_file import weight_map
from advisor.cost.llama_memory import device_context
from advisor.cost.offload import engine_buffers, granted
from advisor.cost.placement import HOST, device_of
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Commands, Memory, Plan, Settings
from advisor.facts.quantity import Quantity, total
from advisor.planner.costing import HEADROOM
from advisor.planner.devices import device_capacity

SOURCE: Final = "llama.cpp, dry load"

Asker = Callable[[int], int | None]


class Found(NamedTuple):
    """``layers``: the most that fit, ``None`` where not even the least do; ``needed``: bytes that these take."""

    layers: int | None
    needed: int


def most_that_fit(ask: Asker, *, planned: int, least: int, most: int, room: int) -> Found | None:
    """The most layers on a device for which the engine finds room, looked for from the planned number on.

    The two numbers above the answer do not fit, even where a layer more needs less; where needs only grow, nothing
    above it fits. Few questions are asked: steps are doubled, then halved.

    Args:
        ask: bytes that the device needs with that many layers, ``None`` where the engine does not say.
        planned: what the formulas say.
        least: where to give up.
        most: all there are.
        room: bytes that the device grants.

    Returns: ``None`` where the engine does not say for the planned number: that number stands.
    """
    known: dict[int, int | None] = {}

    def need(n: int) -> int | None:
        if n not in known:
            known[n] = ask(n)
        return known[n]

    def fits(n: int) -> bool:
        found = need(n)
        return found is not None and found <= room

    first = need(planned)
    if first is None:
        return None
    step = 1
    low, high = planned, planned
    if fits(planned):
        while low < most:
            high = min(most, low + step)
            if not fits(high):
                break
            low, step = high, 2 * step
    else:
        while high > least:
            low = max(least, high - step)
            if fits(low):
                break
            high, step = low, 2 * step
        if not fits(low):
            return Found(None, need(low) or first)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    while (above := next((n for n in (low + 2, low + 1) if n <= most and fits(n)), None)) is not None:
        low = above
    return Found(low, need(low) or 0)


def needed(
    stored: int, compute: int, *, work: Quantity, spared: int = 0, step: int = 1, same_build: bool = True
) -> Quantity:
    """Bytes of a server's buffers on a device, out of what a dry load says of it.

    A dry load has the logits of a whole physical batch in its work buffer, where the server may reserve one row a slot.
    That counts only where the batch's logits are what is largest at one time, so the server's buffer lies between the
    dry load's and that less the rows that are spared; of these the bound of the formula is taken, where the formula is
    more than a guess. Another build may also need more than the dry load's.

    Args:
        stored: weights, cache and state on the device.
        compute: the work buffer there.
        work: the formula's work buffer of the server.
        spared: ``vocabulary * 4 bytes * (physical batch - slots)``; 0 where the server reserves all rows.
        step: bytes to which each of the numbers (two of them in ``stored``) is cut.
        same_build: server and dry load are of one build of llama.cpp.
    """
    low, high = max(0, compute - spared), compute + step - 1
    if same_build:
        high = high if work.method == "guess" else min(high, max(int(work.high), high - spared))
    else:
        low = min(low, int(work.low))
        high = max(int(work.high), high + high // 10 if work.method == "guess" else high - spared)
    value = min(max(int(work.value), low), high)
    return Quantity(
        value=stored + value,
        low=stored + low,
        high=stored + high + 2 * (step - 1),
        unit="bytes",
        method="engine",
        source=SOURCE if same_build else f"{SOURCE} of another build",
    )


def room(machine: Machine, device: str) -> int | None:
    """Bytes that the engine's own buffers may take on a device: as much as a plan may fill, less the driver's part.

    Raises:
        KeyError: an unknown device.
    """
    found, size = device_of(machine, device), granted(machine, device)
    whole = device_capacity(found) if found is not None else None
    if size is None or whole is None:
        return None
    driver = device_context(machine, device)
    return min(size - int(driver.high), int(whole * (1 - HEADROOM)) - int(driver.value))


def accelerators(plan: Plan) -> tuple[str, ...]:
    """The device keys of a plan but the host's."""
    return tuple(key for key in plan.devices if key != HOST)


class Range(NamedTuple):
    """What can be moved between a device and the host: whole layers, or their experts. ``most`` is all of them."""

    planned: int
    least: int
    most: int
    experts: bool

    def settings(self, base: Settings, n: int) -> Settings:
        """Settings with ``n`` layers, or the experts of ``n`` layers, on the devices."""
        if self.experts:
            return msgspec.structs.replace(base, cpu_moe_layers=self.most - n)
        return msgspec.structs.replace(base, gpu_layers=n)

    def words(self, n: int) -> str:
        """``n`` of them, named."""
        return f"{'the experts of ' if self.experts else ''}{n} layer{'' if n == 1 else 's'}"


def movable(plan: Plan, model: ModelFacts, tensors: tuple[TensorSpec, ...]) -> Range | None:
    """What of the plan may move; ``None`` where all of the model is on devices, or all of it on the host."""
    s = plan.settings
    if HOST not in plan.devices or not accelerators(plan) or s.gpu_layers < 1:
        return None
    layers = len(weight_map(model, tensors, plan.made_as, imatrix=plan.imatrix).layers)
    if s.cpu_moe_layers:
        held = min(s.cpu_moe_layers, layers)
        return Range(layers - held, 0, layers, experts=True)
    return Range(min(s.gpu_layers, layers + 1), 1, layers + 1, experts=False)


def refined(
    plan: Plan,
    settings: Settings,
    needs: Mapping[str, Quantity],
    *,
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    machine: Machine,
) -> Plan:
    """The plan with ``settings`` and, on each device of ``needs``, the engine's word on its buffers.

    ``by_device`` also has what the driver takes there, which is a guess as before. The plan keeps its id, which names
    the choice that was made; speed, times and what is left for the host follow the new settings.
    """
    if settings != plan.settings:
        new = cost(
            model,
            tensors,
            method=plan.method,
            fmt=plan.made_as,
            runtime=plan.runtime,
            settings=settings,
            machine=machine,
            devices=plan.devices,
            imatrix=plan.imatrix,
            as_is=True if plan.method == "gguf" and plan.source == "as-is" else None,
        )
        serve = tuple(_with_layers(argv, settings) for argv in plan.commands.serve)
        plan = msgspec.structs.replace(
            plan,
            settings=settings,
            memory=new.memory,
            speed=new.speed,
            time=msgspec.structs.replace(plan.time, start=new.time.start),
            commands=Commands(quantize=plan.commands.quantize, serve=serve),
        )
    return msgspec.structs.replace(plan, memory=_told(plan.memory, needs, machine))


def _told(memory: Memory, needs: Mapping[str, Quantity], machine: Machine) -> Memory:
    """Memory with the engine's word by device; weights and cache are exact anyway, so what differs is work buffer."""
    by_device, work = dict(memory.by_device), memory.compute
    for key, need in needs.items():
        formula, driver = engine_buffers(memory.by_device[key], machine, key), device_context(machine, key)
        by_device[key] = Quantity(
            value=need.value + driver.value,
            low=need.low + driver.low,
            high=need.high + driver.high,
            unit="bytes",
            method="engine",
            source=f"{need.source}; with a guess at what the driver takes",
        )
        work = msgspec.structs.replace(
            work,
            value=max(0, work.value + need.value - formula.value),
            low=max(0, work.low + need.low - formula.low),
            high=max(0, work.high + need.high - formula.high),
            source=f"{need.source}; on the host: {work.source}" if HOST in memory.by_device else need.source,
        )
    whole = total(list(by_device.values()), f"sum of its parts; on devices: {SOURCE}")
    return msgspec.structs.replace(memory, compute=work, total=whole, by_device=by_device)


def _with_layers(argv: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """A command by hand with other numbers of layers."""
    numbers = {"-ngl": settings.gpu_layers, "--n_gpu_layers": settings.gpu_layers, "-ncmoe": settings.cpu_moe_layers}
    return tuple(
        str(numbers[before]) if before in numbers else word for before, word in zip(("", *argv), argv, strict=False)
    )
