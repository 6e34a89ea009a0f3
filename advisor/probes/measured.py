"""What was measured on a machine: kept in a recording, so that a replay knows it, and laid over what was probed."""

from __future__ import annotations

import msgspec

from advisor.facts.base import Shape
from advisor.facts.machine import Device, Machine, Provenance, Storage
from advisor.facts.quantity import Quantity


class DeviceCopy(Shape, frozen=True, kw_only=True):
    """``quantity``: bytes a second of a copy within the memory of a device, reading and writing counted.

    ``device``: its id in the machine; ``name``: what it called itself, so that figures never go to another device.
    """

    device: str
    name: str
    quantity: Quantity
    stable: bool = True


class Measurements(Shape, frozen=True, kw_only=True):
    """``measured_at``: when the recording was made, UTC, ISO 8601; for people, nothing is decided by it."""

    measured_at: str | None = None
    bandwidth: Quantity | None = None
    store: Storage | None = None
    devices: tuple[DeviceCopy, ...] = ()


def apply(machine: Machine, known: Measurements | None) -> Machine:
    """The machine with what was measured in place of what was unknown or from a table."""
    if known is None:
        return machine
    host = machine.host
    if host.bandwidth is None and known.bandwidth is not None:
        host = msgspec.structs.replace(host, bandwidth=known.bandwidth)
    if host.store is None and known.store is not None:
        host = msgspec.structs.replace(host, store=known.store)
    devices = tuple(_measured(d, known.devices) for d in machine.devices)
    notes = tuple(
        Provenance(what=f"{new.id}.bandwidth", source="device copy", note=f"the table has {old.bandwidth.value:.0f}")
        for old, new in zip(machine.devices, devices, strict=True)
        if old != new and old.bandwidth is not None
    )
    return msgspec.structs.replace(machine, host=host, devices=devices, provenance=machine.provenance + notes)


def _measured(device: Device, copies: tuple[DeviceCopy, ...]) -> Device:
    for copy in copies:
        if (copy.device, copy.name) == (device.id, device.name) and device.unusable is None:
            return msgspec.structs.replace(device, bandwidth=copy.quantity)
    return device
