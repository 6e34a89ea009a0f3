"""Looked at before anything is fetched or made: disk and memory, against what the plan says it takes."""

from __future__ import annotations

import math
from pathlib import Path

from advisor.errors import AdvisorError
from advisor.execute.disk import free_bytes
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from advisor.facts.quantity import Quantity


def gib(n: float) -> str:
    """Bytes as GiB with two digits, the way people compare them."""
    return f"{n / 2**30:.2f} GiB"


def check_disk(folder: Path, needed_bytes: int | None, what: str) -> None:
    """Check that ``needed_bytes`` more can be written under ``folder``; unknown amounts pass.

    Raises:
        AdvisorError: ``disk-full`` with the bytes needed, free and short.
    """
    free = free_bytes(folder)
    if needed_bytes is None or free is None or free >= needed_bytes:
        return
    raise AdvisorError(
        "disk-full",
        f"{what} takes {gib(needed_bytes)} in {folder}, which has {gib(free)} left: {gib(needed_bytes - free)} short.",
        hint="advisor paths",
        data={
            "path": str(folder),
            "needed_bytes": needed_bytes,
            "free_bytes": free,
            "short_by": needed_bytes - free,
        },
    )


def _check_share(plan: Plan, machine: Machine, free: dict[str, int | None]) -> None:
    """Check that the share of each device that the plan's runtime asks for when it starts is free now.

    Raises:
        AdvisorError: ``not-enough-memory``.
    """
    share = plan.settings.gpu_memory_utilization
    if share is None:
        return
    for device in machine.devices:
        whole, there = device.memory.total_bytes, free.get(device.id)
        if device.id not in plan.memory.by_device or whole is None or there is None:
            continue
        asked = math.ceil(whole * share)
        if asked > there:
            raise AdvisorError(
                "not-enough-memory",
                f"{plan.runtime} asks for {gib(asked)} of {device.id} when it starts ({share:g} of all its memory), "
                f"and {gib(there)} are free now. Something else may be using it.",
                hint=f"advisor recommend {plan.model} --runtime {plan.runtime}",
                data={"devices": {device.id: {"needed_bytes": asked, "free_bytes": there, "short_by": asked - there}}},
            )


def check_making(making: Quantity, fmt: str, machine: Machine, *, hint: str | None) -> None:
    """Check that the host's memory has what making an artifact of the format ``fmt`` takes at the least.

    Raises:
        AdvisorError: ``not-enough-memory`` with the bytes needed and free.
    """
    there = machine.host.memory.available_bytes
    if there is None or making.low <= there:
        return
    raise AdvisorError(
        "not-enough-memory",
        f"Making {fmt} takes about {gib(making.value)} of memory ({gib(making.low)} at least), and {gib(there)} are "
        "free. Close other programs, or take a format that needs less to make.",
        hint=hint,
        data={"making": {"needed_bytes": int(making.low), "free_bytes": there}},
    )


def check_memory(plan: Plan, machine: Machine, *, planned_for: Machine | None = None) -> None:
    """Check that each device of the plan has now what the plan takes there; unknown amounts pass.

    Swap never counts: a server whose weights and cache lie there answers in minutes and takes the host with it.
    ``planned_for``: the machine as it was when it was planned for, to say what has come between.

    Raises:
        AdvisorError: ``not-enough-memory`` with the bytes needed, free and short, by device; also where a runtime asks
            for a share of a device and does not start where less is free.
    """
    free = {"host": machine.host.memory.available_bytes}
    for device in machine.devices:
        # Unified memory is the host's; it is counted there.
        free[device.id] = free["host"] if device.unified_memory else device.memory.free_bytes
    if plan.making_memory is not None:
        check_making(plan.making_memory, plan.format, machine, hint=f"advisor recommend {plan.model} --method gguf")
    short: dict[str, dict[str, int]] = {}
    by_device = plan.memory.by_device
    shared = {device.id for device in machine.devices if device.unified_memory}
    for name, need in by_device.items():
        there, needed = free.get(name), int(need.value)
        if name in shared:  # what all of them and the host take comes out of one memory
            needed = sum(int(q.value) for key, q in by_device.items() if key in shared or key == "host")
        if there is not None and needed > there:
            short[name] = {"needed_bytes": needed, "free_bytes": there, "short_by": needed - there}
    if not short:
        _check_share(plan, machine, free)
        return
    words = "; ".join(
        f"{name} needs {gib(s['needed_bytes'])} and has {gib(s['free_bytes'])} free ({gib(s['short_by'])} short)"
        for name, s in short.items()
    )
    raise AdvisorError(
        "not-enough-memory",
        f"The plan {plan.id} does not fit now: {words}. {_since(short, planned_for)}{_swapped(short, machine)}",
        hint=f"advisor recommend {plan.model} --max-memory {max(0, min(s['free_bytes'] for s in short.values()))}",
        data={"devices": short},
    )


def _since(short: dict[str, dict[str, int]], before: Machine | None) -> str:
    """What has gone since planning, where something has."""
    if before is None:
        return "Something else may be using it."
    was = {"host": before.host.memory.available_bytes, **{d.id: d.memory.free_bytes for d in before.devices}}
    gone = {
        name: lost
        for name, s in short.items()
        if (there := was.get(name)) is not None and (lost := there - s["free_bytes"]) > 0
    }
    parts = "; ".join(f"{gib(lost)} of {name}" for name, lost in gone.items())
    return f"Since it was planned others took {parts}." if gone else "Something else may be using it."


def _swapped(short: dict[str, dict[str, int]], machine: Machine) -> str:
    swap = machine.host.swap
    if "host" not in short or swap is None or not swap.total_bytes:
        return ""
    return f" It is not started into the {gib(swap.total_bytes)} of swap, where the whole host would stall."
