"""Display and compute devices on the PCI bus, as the kernel lists them; no driver is asked."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from advisor.facts.machine import Device, DeviceMemory
from advisor.facts.words import Vendor
from advisor.probes.sanity import Notes
from advisor.probes.source import Source

_FOLDER: Final = "/sys/bus/pci/devices"
_MAKERS: Final[dict[int, tuple[Vendor, str]]] = {
    0x10DE: ("nvidia", "NVIDIA"),
    0x1002: ("amd", "AMD"),
    0x8086: ("intel", "Intel"),
}
# Base class 03: display controller; 12: processing accelerator (PCI Code and ID Assignment Specification).
_CLASSES: Final = (0x03, 0x12)


class PciDevice(NamedTuple):
    """One device; ``address`` as the kernel writes it."""

    address: str
    vendor: int
    device: int
    base_class: int


def read_pci(source: Source) -> tuple[PciDevice, ...]:
    """The devices of NVIDIA, AMD and Intel that may compute; everything else on the bus is passed over."""
    found = []
    for address in source.names(_FOLDER) or ():
        vendor = _hex(source.text(f"{_FOLDER}/{address}/vendor"))
        if vendor not in _MAKERS:
            continue
        code = _hex(source.text(f"{_FOLDER}/{address}/class"))
        if code is None or code >> 16 not in _CLASSES or (vendor == 0x8086 and code >> 16 != 0x03):
            continue
        device = _hex(source.text(f"{_FOLDER}/{address}/device"))
        found.append(PciDevice(address, vendor, device or 0, code >> 16))
    return tuple(found)


def read_others(source: Source, pci: tuple[PciDevice, ...], notes: Notes) -> tuple[Device, ...]:
    """AMD and Intel devices: listed with what the kernel tells, but not planned on, since it does not tell enough."""
    found = []
    for entry in pci:
        vendor, maker = _MAKERS[entry.vendor]
        if vendor == "nvidia":
            continue
        if entry.address.endswith(":00:02.0") and vendor == "intel":
            notes.add("devices.intel", "PCI bus", "graphics built into the processor; left out")
            continue
        folder = f"{_FOLDER}/{entry.address}"
        name = f"{maker} device {entry.device:04x} (PCI)"
        total = _bytes(source.text(f"{folder}/mem_info_vram_total")) if vendor == "amd" else None
        used = _bytes(source.text(f"{folder}/mem_info_vram_used")) if vendor == "amd" else None
        total = notes.sane_int(total, "memory", f"{name} memory", "amdgpu mem_info_vram_total")
        free = total - used if total is not None and used is not None and used <= total else None
        found.append(
            Device(
                id="gpu",
                vendor=vendor,
                name=name,
                profile=None,
                memory=DeviceMemory(total_bytes=total, usable_bytes=None, free_bytes=free),
                bandwidth=None,
                compute_capability=None,
                formats={},
                unified_memory=False,
                link=None,
                unusable=f"advisor does not identify {maker} devices by itself; name it with --hardware",
            )
        )
    return tuple(found)


def _hex(text: str | None) -> int | None:
    word = (text or "").strip()
    return int(word, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", word) else None


def _bytes(text: str | None) -> int | None:
    word = (text or "").strip()
    return int(word) if re.fullmatch(r"\d{1,19}", word, re.ASCII) else None
