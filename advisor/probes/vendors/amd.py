"""AMD devices: what the kernel driver amdgpu and its Kernel Fusion Driver say in files; no process is started.

Memory: ``mem_info_vram_total`` is the device's own. A processor's graphics have a carve-out of the host's memory as
"VRAM", and may take more of it up to ``mem_info_gtt_total`` (by default half of what the host has; the kernel's
``ttm.pages_limit`` sets it). From Linux 6.10 on ROCm gives the larger of the two, and so does llama.cpp; a machine with
``ttm.pages_limit=25165824`` shows 98304 MiB there (measured by users of a Ryzen AI Max+ 395, 2026).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from advisor.facts.machine import Device, DeviceMemory
from advisor.facts.quantity import Quantity, exact
from advisor.facts.text import clean
from advisor.probes import drm
from advisor.probes.matching import Match, match_pci
from advisor.probes.pci import AMD, FOLDER, NVIDIA, PciDevice, whole_number
from advisor.probes.vendors import amd_kfd
from advisor.probes.vendors.amd_kfd import KfdNode
from advisor.probes.vendors.amd_select import select
from advisor.probes.vendors.base import Look

_DRIVER: Final = "amdgpu"
_ROCM: Final = "/opt/rocm/.info/version"
# Graphics inside a processor. Source: LLVM, "User Guide for AMDGPU Backend", processors of the kind APU.
_APUS: Final = frozenset(
    (
        *("gfx801", "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1037"),
        *("gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    )
)
# The same where the Kernel Fusion Driver does not tell; source: pci.ids (Raven, Picasso, Renoir, Lucienne, Cezanne,
# Barcelo, Van Gogh, Rembrandt, Raphael, Mendocino, Granite Ridge, Phoenix, Hawk Point, Strix, Krackan).
_APU_IDS: Final = frozenset(
    (
        *(0x15DD, 0x15D8, 0x1636, 0x164C, 0x1638, 0x15E7, 0x163F, 0x1435, 0x164D, 0x1681, 0x164E, 0x1506, 0x13C0),
        *(0x15BF, 0x15C8, 0x164F, 0x1900, 0x1901, 0x1902, 0x150E, 0x1586, 0x1114),
    )
)
_NO_KFD: Final = "ROCm has no access to it ({why}); only programs that use Vulkan can"
_INTEGRATED: Final = "graphics inside the processor of which there is no profile; not planned on"


class Part(NamedTuple):
    """One device as ROCm lists it: a PCI device, or one of the ``parts`` into which it is partitioned."""

    pci: PciDevice
    node: KfdNode | None
    number: int = 0
    parts: int = 1


class Amd:
    """AMD devices on the PCI bus."""

    name = "amd"

    def present(self, look: Look, /) -> bool:
        """A device on the bus."""
        return bool(look.of(AMD))

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices, in the order of ROCm as far as it shows them."""
        return _read(look)


PROBE: Final = Amd()


def _read(look: Look) -> tuple[Device, ...]:
    by_address: dict[str, list[KfdNode]] = {}
    for node in amd_kfd.read_nodes(look.source):
        by_address.setdefault(node.address, []).append(node)
    parts: list[Part] = []
    for pci in look.of(AMD):
        found = by_address.get(pci.address, [])
        parts += [Part(pci, node, n, len(found)) for n, node in enumerate(found)] or [Part(pci, None)]
    _note_rocm(look)
    parts.sort(key=lambda p: (p.node is None, p.node.number if p.node else 0))
    listed = [p for p in parts if p.node is not None]
    uuids = tuple(_serial(look, p.pci) for p in listed)
    shown = select(uuids, look.environment, look.notes, cuda=not look.of(NVIDIA))
    order = [*shown.order, *(n for n in range(len(parts)) if n not in shown.order)]
    return tuple(_device(look, parts[n], shown.hidden.get(n)) for n in order)


def _note_rocm(look: Look) -> None:
    version = clean(look.source.text(_ROCM) or "", 40).strip()
    if version:
        look.notes.add("devices.amd", _ROCM, f"ROCm {version}")
    taken_for = amd_kfd.overridden(look.environment.get("HSA_OVERRIDE_GFX_VERSION"))
    if taken_for is not None:
        look.notes.add("devices.amd", "HSA_OVERRIDE_GFX_VERSION", f"ROCm takes every device for {taken_for}")


def _device(look: Look, part: Part, hidden: str | None) -> Device:
    pci, node = part.pci, part.node
    at = f"{FOLDER}/{pci.address}"
    own = look.source.text(f"{at}/product_name")
    what = clean(own or "", 60).strip() or f"AMD device {pci.device:04x}"
    total = _bytes(look, f"{at}/mem_info_vram_total", "memory", what)
    if total is None and node is not None and part.parts == 1:
        total = look.notes.sane_int(node.vram_bytes, "memory", f"{what} memory", "KFD mem_banks")
    inside = _inside(pci, node)
    units = node.compute_units if node is not None else None
    match = match_pci(pci, memory_bytes=None if inside else total, cores=None if units is None else units * part.parts)
    name = match.name or (what if own else f"{what} (PCI)")
    held = drm.driver(look.source, pci)
    unusable = drm.not_driven(held, (_DRIVER,))
    apis: tuple[str, ...] | None = None
    if unusable is None:
        apis, unusable = _apis(look, part, name if match.profiles or not inside else None)
    if hidden is not None:
        unusable = f"hidden by {hidden}"
    unified = inside
    if inside:
        memory, unified = _shared(look, at, name, total)
        unified = unified or not match.profiles
    else:
        memory = _own(look, part, name, total)
    if unusable is None:
        unusable = _unplannable(match, memory, inside=inside)
    if match.profile is None and unusable is None:
        look.notes.add(name, "profiles/hardware", "no single profile has its PCI id; what is not known stays unknown")
    version = clean(look.source.text("/sys/module/amdgpu/version") or "", 40).strip()
    return Device(
        id="gpu",
        vendor="amd",
        name=name if part.parts == 1 else f"{name} (partition {part.number + 1} of {part.parts})",
        profile=match.profile.id if match.profile is not None else None,
        memory=memory,
        bandwidth=_share(match.bandwidth, part.parts),
        compute_capability=None,
        formats=match.formats,
        unified_memory=unified,
        link=drm.levels(look.source.text(f"{at}/pp_dpm_pcie")) or (None if inside else drm.link(look.source, pci)),
        unusable=unusable,
        fp16_tflops=match.fp16_tflops / part.parts if match.fp16_tflops is not None else None,
        arch=(node.gfx if node is not None else None) or match.arch,
        driver=f"{held} {version}".strip() if held == _DRIVER else None,
        uuid=f"GPU-{serial}" if (serial := _serial(look, pci)) else None,
        pci=pci.address,
        apis=apis,
    )


def _serial(look: Look, pci: PciDevice) -> str:
    """The unique id, with which ROCm selects a device; empty where it has none (most cards for desktops)."""
    word = (look.source.text(f"{FOLDER}/{pci.address}/unique_id") or "").strip()
    return word if re.fullmatch(r"[0-9a-fA-F]{1,16}", word) else ""


def _inside(pci: PciDevice, node: KfdNode | None) -> bool:
    """Whether the device is part of the processor."""
    return node.gfx in _APUS if node is not None and node.gfx is not None else pci.device in _APU_IDS


def _apis(look: Look, part: Part, name: str | None) -> tuple[tuple[str, ...] | None, str | None]:
    """What programs of this user can use the device through, or the reason why nothing. With a ``name`` it is noted
    that ROCm is out of reach."""
    render = drm.nodes(look.source, part.pci).render
    if render is None and part.node is not None and part.node.render_minor is not None:
        render = f"renderD{part.node.render_minor}"
    if render is None:
        return (), "its driver made no device file for computing (/dev/dri/renderD*)"
    file = drm.access(look, f"/dev/dri/{render}")
    if file.open is False:
        return (), f"this user may not open /dev/dri/{render}{drm.join_group(file)}"
    kfd = drm.access(look, amd_kfd.DEVICE_FILE)
    if file.open is None:
        return None, None
    if part.node is not None and kfd.open:
        return ("rocm", "vulkan"), None
    if part.node is None:
        why = "the Kernel Fusion Driver does not list it"
    elif look.source.exists(amd_kfd.DEVICE_FILE):
        why = f"this user may not open {amd_kfd.DEVICE_FILE}{drm.join_group(kfd)}"
    else:
        why = f"{amd_kfd.DEVICE_FILE} is not there"
    if name is not None:
        look.notes.add(name, amd_kfd.DEVICE_FILE, "limited: " + _NO_KFD.format(why=why))
    return ("vulkan",), None


def _own(look: Look, part: Part, name: str, total: int | None) -> DeviceMemory:
    at = f"{FOLDER}/{part.pci.address}"
    used = _bytes(look, f"{at}/mem_info_vram_used", "free memory", name)
    seen = _bytes(look, f"{at}/mem_info_vis_vram_total", "memory", name)
    if total is not None and seen is not None and seen < total:
        look.notes.add(
            name, "amdgpu mem_info_vis_vram_total", "the host sees a part of its memory only: no resizable BAR"
        )
    if part.parts > 1:
        bank = part.node.vram_bytes if part.node is not None else None
        size = look.notes.sane_int(bank, "memory", f"{name} memory", "KFD mem_banks")
        return DeviceMemory(total_bytes=size, usable_bytes=None, free_bytes=None)
    free = total - used if total is not None and used is not None and used <= total else None
    return DeviceMemory(total_bytes=total, usable_bytes=None, free_bytes=free)


def _shared(look: Look, at: str, name: str, carved: int | None) -> tuple[DeviceMemory, bool]:
    """The memory of graphics inside a processor, and whether it is the host's: a large carve-out is none of it."""
    notes, host = look.notes, look.host.memory
    reach = _bytes(look, f"{at}/mem_info_gtt_total", "memory", name)
    if carved is not None and (reach is None or carved >= reach):
        used = _bytes(look, f"{at}/mem_info_vram_used", "free memory", name)
        free = carved - used if used is not None and used <= carved else None
        notes.add(
            name, "amdgpu mem_info_vram_total", "set aside by the firmware; the host does not count it as its own"
        )
        return DeviceMemory(total_bytes=carved, usable_bytes=carved, free_bytes=free), False
    if reach is None:
        return DeviceMemory(total_bytes=None, usable_bytes=None, free_bytes=None), True
    limit = min(host.total_bytes, host.limit_bytes or host.total_bytes)
    usable = min(reach, limit)
    used = _bytes(look, f"{at}/mem_info_gtt_used", "free memory", name) or 0
    left = [usable - used] if used <= usable else []
    left += [host.available_bytes] if host.available_bytes is not None else []
    notes.add(name, "amdgpu mem_info_gtt_total", "shares the host's memory up to this; ttm.pages_limit sets it")
    whole = host.total_bytes + (carved or 0)
    return DeviceMemory(total_bytes=whole, usable_bytes=usable, free_bytes=min(left, default=None)), True


def _unplannable(match: Match, memory: DeviceMemory, *, inside: bool) -> str | None:
    """The reason why nothing is planned on a device that could be used, or ``None``."""
    if inside and not match.profiles:
        return _INTEGRATED
    if memory.total_bytes is None:
        return "the size of its memory is not known; name it with --hardware"
    return None


def _share(rate: Quantity | None, parts: int) -> Quantity | None:
    if rate is None or parts == 1:
        return rate
    return exact(int(rate.value / parts), "bytes/s", f"one of {parts} partitions: {rate.source}", "formula")


def _bytes(look: Look, path: str, kind: str, what: str) -> int | None:
    name = path.rsplit("/", 1)[-1]
    return look.notes.sane_int(whole_number(look.source.text(path)), kind, f"{what} {name}", f"amdgpu {name}")
