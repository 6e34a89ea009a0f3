"""Looked at before anything is fetched or made: disk and memory, against what the plan says it takes."""

from __future__ import annotations

from pathlib import Path

from advisor.errors import AdvisorError
from advisor.execute.disk import free_bytes
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan


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


def check_memory(plan: Plan, machine: Machine) -> None:
    """Check that each device of the plan has now what the plan takes there; unknown amounts pass.

    Raises:
        AdvisorError: ``not-enough-memory`` with the bytes needed, free and short, by device.
    """
    free = {"host": machine.host.memory.available_bytes}
    for device in machine.devices:
        # Unified memory is the host's; it is counted there.
        free[device.id] = free["host"] if device.unified_memory else device.memory.free_bytes
    making, there = plan.making_memory, free["host"]
    if making is not None and there is not None and making.low > there:
        raise AdvisorError(
            "not-enough-memory",
            f"Making {plan.format} takes about {gib(making.value)} of memory ({gib(making.low)} at least), and "
            f"{gib(there)} are free. Close other programs, or take a format that needs less to make.",
            hint=f"advisor recommend {plan.model} --method gguf",
            data={"making": {"needed_bytes": int(making.low), "free_bytes": there}},
        )
    short: dict[str, dict[str, int]] = {}
    for name, need in plan.memory.by_device.items():
        there = free.get(name)
        if there is not None and need.value > there:
            short[name] = {
                "needed_bytes": int(need.value),
                "free_bytes": there,
                "short_by": int(need.value) - there,
            }
    if not short:
        return
    words = "; ".join(
        f"{name} needs {gib(s['needed_bytes'])} and has {gib(s['free_bytes'])} free ({gib(s['short_by'])} short)"
        for name, s in short.items()
    )
    raise AdvisorError(
        "not-enough-memory",
        f"The plan {plan.id} does not fit now: {words}. Something else may be using it.",
        hint=f"advisor recommend {plan.model} --max-memory {max(0, min(s['free_bytes'] for s in short.values()))}",
        data={"devices": short},
    )
