"""What of a device's memory a plan may count on: what is free now, which others may have taken."""

from __future__ import annotations

from typing import Final

import msgspec

from advisor.facts.machine import Device, Machine

_GIB: Final = 1 << 30
# A desktop and the driver's own contexts; less than this is nobody's workload.
_NOTABLE: Final = _GIB


def device_capacity(device: Device) -> int | None:
    """Device memory that may be used: the least of what a process can get and what is free now."""
    known = [v for v in (device.memory.usable_bytes, device.memory.free_bytes) if v is not None]
    return min(known) if known else device.memory.total_bytes


def in_use(device: Device) -> str | None:
    """In words, that others hold a good part of the device's memory and how much the plan counts on; else ``None``.

    Unified memory is the host's, of which only what is available is counted on anyway.
    """
    memory = device.memory
    most = memory.usable_bytes if memory.usable_bytes is not None else memory.total_bytes
    if most is None or memory.free_bytes is None or device.unified_memory:
        return None
    taken = most - memory.free_bytes
    if taken < max(_NOTABLE, most // 20):
        return None
    count = device.processes.count if device.processes is not None else 0
    who = f"{count} other process{'' if count == 1 else 'es'}" if count else "others"
    return (
        f"{device.id}: {taken / _GIB:.1f} of {most / _GIB:.1f} GiB are held by {who}; "
        f"planned with the {memory.free_bytes / _GIB:.1f} GiB that are free now"
    )


def whole(machine: Machine) -> Machine:
    """The machine as if nothing ran on it: what is usable counts, not what is free."""
    memory = msgspec.structs.replace(machine.host.memory, available_bytes=None)
    devices = tuple(
        msgspec.structs.replace(d, memory=msgspec.structs.replace(d.memory, free_bytes=None))
        if d.memory.usable_bytes is not None
        else d
        for d in machine.devices
    )
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, memory=memory), devices=devices)
