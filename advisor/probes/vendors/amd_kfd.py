"""The nodes of the Kernel Fusion Driver: what ROCm sees of AMD devices, in files that anybody may read.

``/sys/class/kfd/kfd/topology/nodes/N/properties`` has a name and a number a line. Processors are nodes too, without
SIMD units. A device in a compute partition mode has several nodes at one address. Source: the Linux kernel,
drivers/gpu/drm/amd/amdkfd/kfd_topology.c.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from advisor.probes.pci import AMD
from advisor.probes.source import Source

FOLDER: Final = "/sys/class/kfd/kfd/topology/nodes"
DEVICE_FILE: Final = "/dev/kfd"
_MAX_NODES: Final = 1024
# kfd_crat.h: memory of the device that the host sees, and that it does not see.
_FRAME_BUFFER: Final = (1, 2)
_LINE: Final = re.compile(r"^([a-z_0-9]{1,40}) (\d{1,20})$", re.ASCII)


class KfdNode(NamedTuple):
    """One device, or one partition of it. ``number`` orders the devices of ROCm. ``vram_bytes``: memory of its own."""

    number: int
    address: str
    gfx: str | None
    compute_units: int | None
    render_minor: int | None
    vram_bytes: int | None


def read_nodes(source: Source) -> tuple[KfdNode, ...]:
    """The nodes that are AMD graphics devices, in the order in which ROCm numbers them."""
    numbers = [int(n) for n in source.names(FOLDER) or () if re.fullmatch(r"\d{1,5}", n, re.ASCII)]
    found = []
    for number in sorted(numbers)[:_MAX_NODES]:
        node = _node(source, number)
        if node is not None:
            found.append(node)
    return tuple(found)


def properties(text: str | None) -> dict[str, int]:
    """The names and numbers of a ``properties`` file; what is not one is passed over."""
    found: dict[str, int] = {}
    for line in (text or "").split("\n")[:256]:
        match = _LINE.fullmatch(line)
        if match:
            found.setdefault(match[1], int(match[2]))
    return found


def gfx_name(version: int) -> str | None:
    """``gfx_target_version`` as the compiler names it: 110501 is gfx1151, 90010 gfx90a, 90402 gfx942."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    if not 6 <= major <= 99 or minor > 15 or stepping > 15:
        return None
    return f"gfx{major}{minor:x}{stepping:x}"


def overridden(value: str | None) -> str | None:
    """The name for which ``HSA_OVERRIDE_GFX_VERSION`` (``10.3.0``) makes ROCm take every device."""
    match = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{1,2})", (value or "").strip(), re.ASCII)
    return gfx_name(int(match[1]) * 10000 + int(match[2]) * 100 + int(match[3])) if match else None


def _node(source: Source, number: int) -> KfdNode | None:
    """Reading the properties of a device that a container was not given is refused; it is then no node here."""
    known = properties(source.text(f"{FOLDER}/{number}/properties"))
    if known.get("vendor_id") != AMD or not known.get("simd_count"):
        return None
    location, domain = known.get("location_id", 0), known.get("domain", 0)
    if location > 0xFFFF or domain > 0xFFFFFFFF:
        return None
    each = known.get("simd_per_cu") or 0
    units = known["simd_count"] // each if each else 0
    minor = known.get("drm_render_minor") or 0
    return KfdNode(
        number=number,
        address=f"{domain:04x}:{location >> 8:02x}:{location >> 3 & 0x1F:02x}.{location & 7}",
        gfx=gfx_name(known.get("gfx_target_version", 0)),
        compute_units=units if 0 < units <= 1 << 16 else None,
        render_minor=minor if 128 <= minor < 1 << 20 else None,
        vram_bytes=_memory(source, number, known.get("mem_banks_count", 0)),
    )


def _memory(source: Source, number: int, banks: int) -> int | None:
    sizes = []
    for bank in range(min(banks, 16)):
        known = properties(source.text(f"{FOLDER}/{number}/mem_banks/{bank}/properties"))
        if known.get("heap_type") in _FRAME_BUFFER:
            sizes.append(known.get("size_in_bytes", 0))
    return sum(sizes) or None
