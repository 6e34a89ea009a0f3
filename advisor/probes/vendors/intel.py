"""Intel devices: listed, but not planned on."""

from __future__ import annotations

from typing import Final

from advisor.facts.machine import Device
from advisor.probes.pci import INTEL
from advisor.probes.vendors.base import Look, unusable


class Intel:
    """Intel devices on the PCI bus."""

    name = "intel"

    def present(self, look: Look, /) -> bool:
        """A device on the bus."""
        return bool(look.of(INTEL))

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices that are cards."""
        found = []
        for entry in look.of(INTEL):
            if entry.address.endswith(":00:02.0"):
                look.notes.add("devices.intel", "PCI bus", "graphics built into the processor; left out")
                continue
            name = f"Intel device {entry.device:04x} (PCI)"
            reason = "advisor does not identify Intel devices by itself; name it with --hardware"
            found.append(unusable("intel", name, reason))
        return tuple(found)


PROBE: Final = Intel()
