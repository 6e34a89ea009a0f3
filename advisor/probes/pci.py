"""Display and compute devices on the PCI bus, as the kernel lists them; no driver is asked."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from advisor.probes.source import Source

FOLDER: Final = "/sys/bus/pci/devices"
NVIDIA: Final = 0x10DE
AMD: Final = 0x1002
INTEL: Final = 0x8086
_MAKERS: Final = (NVIDIA, AMD, INTEL)
# Base class 03: display controller; 12: processing accelerator (PCI Code and ID Assignment Specification).
_CLASSES: Final = (0x03, 0x12)


class PciDevice(NamedTuple):
    """One device; ``address`` as the kernel writes it, ``subsystem``: vendor and device of the board's maker."""

    address: str
    vendor: int
    device: int
    base_class: int
    revision: int | None = None
    subsystem: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Vendor and device as lists of PCI ids write them, ``10de:2684``."""
        return f"{self.vendor:04x}:{self.device:04x}"


def read_pci(source: Source) -> tuple[PciDevice, ...]:
    """The devices of NVIDIA, AMD and Intel that may compute; everything else on the bus is passed over."""
    found = []
    for address in source.names(FOLDER) or ():
        vendor = hex_number(source.text(f"{FOLDER}/{address}/vendor"))
        if vendor not in _MAKERS:
            continue
        code = hex_number(source.text(f"{FOLDER}/{address}/class"))
        if code is None or code >> 16 not in _CLASSES or (vendor == 0x8086 and code >> 16 != 0x03):
            continue
        device, revision, *board = (
            hex_number(source.text(f"{FOLDER}/{address}/{name}"))
            for name in ("device", "revision", "subsystem_vendor", "subsystem_device")
        )
        subsystem = None if board[0] is None or board[1] is None else (board[0], board[1])
        found.append(PciDevice(address, vendor, device or 0, code >> 16, revision, subsystem))
    return tuple(found)


def hex_number(text: str | None) -> int | None:
    """The number in a file of sysfs that holds one in hexadecimal, ``0x...``."""
    word = (text or "").strip()
    return int(word, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", word) else None


def whole_number(text: str | None) -> int | None:
    """The number in a file of sysfs that holds one in decimal."""
    word = (text or "").strip()
    return int(word) if re.fullmatch(r"\d{1,19}", word, re.ASCII) else None
