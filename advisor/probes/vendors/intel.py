"""Intel devices: what the kernel drivers i915 and xe say in files; no process is started.

Memory: xe tells it for each tile (``tile0/physical_vram_size_bytes``), i915 as ``lmem_total_bytes`` where it does at
all; otherwise the profile of the PCI id has it, and the size of the memory window on the bus (BAR 2), once resized,
tells variants of one card apart. Graphics inside a processor take host memory: Mesa's Vulkan driver offers three
quarters of it (an UHD Graphics 630 beside 94 GiB shows 72144 MiB in llama.cpp).
"""

from __future__ import annotations

import re
from typing import Final

from advisor.facts.machine import Device, DeviceMemory
from advisor.probes import drm
from advisor.probes.matching import Match, match_pci
from advisor.probes.pci import FOLDER, INTEL, PciDevice, whole_number
from advisor.probes.vendors.base import Look
from advisor.probes.vendors.intel_select import hidden

_DRIVERS: Final = ("xe", "i915")
_MAX_TILES: Final = 8
# Without resizable BAR the window on a card's memory is 256 MiB, whatever the memory.
_SMALL_WINDOW: Final = 256 << 20
_OFFERED: Final = 0.75
# Where the graphics of Intel's processors are on the bus.
_INSIDE: Final = ":00:02.0"


class Intel:
    """Intel devices on the PCI bus."""

    name = "intel"

    def present(self, look: Look, /) -> bool:
        """A device on the bus."""
        return bool(look.of(INTEL))

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices, in the order of Level Zero: cards before graphics inside the processor."""
        found = sorted(look.of(INTEL), key=lambda d: (d.address.endswith(_INSIDE), d.address))
        names = hidden(len(found), look.environment, look.notes)
        return tuple(_device(look, pci, names.get(n)) for n, pci in enumerate(found))


PROBE: Final = Intel()


def _device(look: Look, pci: PciDevice, hider: str | None) -> Device:
    inside = pci.address.endswith(_INSIDE)
    what = f"Intel device {pci.device:04x}"
    told = None if inside else _told(look, pci, what)
    match = match_pci(pci, memory_bytes=told, cpu=look.host.cpu.name)
    if told is None and not inside:
        match = _by_window(look, pci, match)
    name = match.name or f"{what} (PCI)"
    held = drm.driver(look.source, pci)
    unusable = drm.not_driven(held, _DRIVERS)
    apis: tuple[str, ...] | None = None
    if unusable is None:
        apis, unusable = _apis(look, pci)
    if hider is not None:
        unusable = f"hidden by {hider}"
    memory = _shared(look, name) if inside else _own(look, name, told, match)
    if unusable is None:
        unusable = _unplannable(match, memory, inside=inside)
    return Device(
        id="gpu",
        vendor="intel",
        name=name,
        profile=match.profile.id if match.profile is not None else None,
        memory=memory if match.profiles or told is not None else _unknown(),
        bandwidth=match.bandwidth,
        compute_capability=None,
        formats=match.formats,
        unified_memory=inside,
        # The device shows one lane of PCIe 1: its link to the switch on the card, not that of the card to the slot.
        link=None,
        unusable=unusable,
        fp16_tflops=match.fp16_tflops,
        arch=match.arch,
        driver=held if held in _DRIVERS else None,
        pci=pci.address,
        apis=apis,
    )


def _told(look: Look, pci: PciDevice, what: str) -> int | None:
    """The memory that the driver tells, of all tiles together."""
    at = f"{FOLDER}/{pci.address}"
    tiles = [whole_number(look.source.text(f"{at}/tile{n}/physical_vram_size_bytes")) for n in range(_MAX_TILES)]
    sizes = [size for size in tiles if size]
    if sizes:
        return look.notes.sane_int(sum(sizes), "memory", f"{what} memory", "xe physical_vram_size_bytes")
    card = drm.nodes(look.source, pci).card
    size = whole_number(look.source.text(f"{at}/drm/{card}/lmem_total_bytes")) if card else None
    return look.notes.sane_int(size, "memory", f"{what} memory", "i915 lmem_total_bytes")


def _by_window(look: Look, pci: PciDevice, match: Match) -> Match:
    """Of several variants those whose memory fits the window: a power of two, and the smallest that holds it."""
    window = _window(look.source.text(f"{FOLDER}/{pci.address}/resource"))
    if window is None:
        return match
    if window <= _SMALL_WINDOW:
        look.notes.add(pci.address, "PCI BAR 2", "the host sees a part of its memory only: no resizable BAR")
        return match
    return Match(
        tuple(p for p in match.profiles if window / 2 < (p.memory_bytes or window) <= window) or match.profiles
    )


def _window(text: str | None) -> int | None:
    """The size of BAR 2: the third line of ``resource``, first and last address in hexadecimal."""
    lines = (text or "").split("\n")
    words = re.findall(r"0x([0-9a-fA-F]{1,16})\b", lines[2][:80]) if len(lines) > 2 else []
    if len(words) < 2 or int(words[1], 16) <= int(words[0], 16):
        return None
    return int(words[1], 16) - int(words[0], 16) + 1


def _apis(look: Look, pci: PciDevice) -> tuple[tuple[str, ...] | None, str | None]:
    """What programs of this user can use the device through, or the reason why nothing."""
    render = drm.nodes(look.source, pci).render
    if render is None:
        return (), "its driver made no device file for computing (/dev/dri/renderD*)"
    file = drm.access(look, f"/dev/dri/{render}")
    if file.open is False:
        return (), f"this user may not open /dev/dri/{render}{drm.join_group(file)}"
    return (None if file.open is None else ("level-zero", "vulkan")), None


def _own(look: Look, name: str, told: int | None, match: Match) -> DeviceMemory:
    total = told if told is not None else match.memory_bytes
    if told is None and total is not None:
        source = match.profile.file if match.profile is not None else "profiles/hardware"
        look.notes.add(f"{name} memory", source, "the driver does not tell it; what is free now is not known")
    return DeviceMemory(total_bytes=total, usable_bytes=None, free_bytes=None)


def _shared(look: Look, name: str) -> DeviceMemory:
    host = look.host.memory
    usable = int(min(host.total_bytes, host.limit_bytes or host.total_bytes) * _OFFERED)
    free = None if host.available_bytes is None else min(usable, host.available_bytes)
    look.notes.add(f"{name} memory", "/proc/meminfo", "shares the host's; three quarters of it are offered to programs")
    return DeviceMemory(total_bytes=host.total_bytes, usable_bytes=usable, free_bytes=free)


def _unknown() -> DeviceMemory:
    return DeviceMemory(total_bytes=None, usable_bytes=None, free_bytes=None)


def _unplannable(match: Match, memory: DeviceMemory, *, inside: bool) -> str | None:
    """The reason why nothing is planned on a device that could be used, or ``None``."""
    if not match.profiles:
        where = "graphics inside the processor of which there is no profile; not planned on"
        return where if inside else "no profile has its PCI id; name it with --hardware"
    if memory.total_bytes is None:
        return "the size of its memory is not known; name which it is with --hardware"
    return None
