"""Where a candidate would run: the host, sets of devices, and both together."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from advisor.facts.machine import Device, Machine
from advisor.planner.devices import device_capacity

Placement = Literal["cpu", "gpu", "split"]

# The kind of a set of devices of several makers.
MIXED: Final = "mixed"


class Target(NamedTuple):
    """Where a candidate would run. ``kind`` is ``cpu``, the vendor, or ``mixed`` for devices of several vendors;
    ``keys`` are device keys, ``host`` included for the CPU and for a split."""

    placement: Placement
    kind: str
    devices: tuple[Device, ...]
    keys: tuple[str, ...]

    @property
    def first(self) -> Device | None:
        """The device that speaks for all, or ``None`` on the CPU."""
        return self.devices[0] if self.devices else None


def usable_devices(machine: Machine) -> tuple[Device, ...]:
    """Accelerators that can be used, by id."""
    return tuple(sorted((d for d in machine.devices if d.unusable is None), key=_counted))


def _counted(device: Device) -> tuple[int, str]:
    """``gpu2`` before ``gpu10``."""
    return len(device.id), device.id


def targets(machine: Machine) -> tuple[Target, ...]:
    """The host; for each vendor its largest device, its 2, 4 ... largest, all of them; cards of all vendors together;
    and splits with the host.

    Largest is what has most memory to give now. On unified memory there is no split, because it is one memory; graphics
    inside the processor are never taken together with cards. Of the slices of split devices only the largest is tried,
    alone: a process sees one.
    """
    out = [Target("cpu", "cpu", (), ("host",))]
    everything: list[Device] = []
    by_vendor: dict[str, list[Device]] = {}
    for device in usable_devices(machine):
        by_vendor.setdefault(device.vendor, []).append(device)
    for vendor in sorted(by_vendor):
        ranked = sorted(by_vendor[vendor], key=lambda d: (-(device_capacity(d) or 0), _counted(d)))
        slices = [d for d in ranked if d.mig is not None][:1]
        whole = [d for d in ranked if d.mig is None]
        cards, inside = [d for d in whole if not d.unified_memory], [d for d in whole if d.unified_memory]
        everything += cards
        for devices in (cards, inside, slices):
            counts = {1, len(devices), *(2**k for k in range(1, 7) if 2**k < len(devices))} if devices else set()
            for count in sorted(counts):
                chosen = tuple(sorted(devices[:count], key=_counted))
                keys = tuple(d.id for d in chosen)
                out.append(Target("gpu", vendor, chosen, keys))
                if count in (1, len(devices)) and not any(d.unified_memory for d in chosen):
                    out.append(Target("split", vendor, chosen, (*keys, "host")))
    if len({d.vendor for d in everything}) > 1:
        chosen = tuple(sorted(everything, key=_counted))
        keys = tuple(d.id for d in chosen)
        out += [Target("gpu", MIXED, chosen, keys), Target("split", MIXED, chosen, (*keys, "host"))]
    return tuple(out)
