"""AMD devices: listed with what the kernel tells, but not planned on, since it does not tell enough."""

from __future__ import annotations

from typing import Final

import msgspec

from advisor.facts.machine import Device, DeviceMemory
from advisor.probes.pci import AMD, FOLDER, PciDevice, whole_number
from advisor.probes.vendors.base import Look, unusable


class Amd:
    """AMD devices on the PCI bus."""

    name = "amd"

    def present(self, look: Look, /) -> bool:
        """A device on the bus."""
        return bool(look.of(AMD))

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices."""
        return tuple(_device(look, entry) for entry in look.of(AMD))


PROBE: Final = Amd()


def _device(look: Look, entry: PciDevice) -> Device:
    folder, name = f"{FOLDER}/{entry.address}", f"AMD device {entry.device:04x} (PCI)"
    total = look.notes.sane_int(
        whole_number(look.source.text(f"{folder}/mem_info_vram_total")),
        "memory",
        f"{name} memory",
        "amdgpu mem_info_vram_total",
    )
    used = whole_number(look.source.text(f"{folder}/mem_info_vram_used"))
    free = total - used if total is not None and used is not None and used <= total else None
    found = unusable("amd", name, "advisor does not identify AMD devices by itself; name it with --hardware")
    return msgspec.structs.replace(found, memory=DeviceMemory(total_bytes=total, usable_bytes=None, free_bytes=free))
