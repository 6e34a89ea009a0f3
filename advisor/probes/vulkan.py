"""Vulkan: which drivers are installed, and which devices they show.

A driver is known by its manifest, a JSON file in folders that the Vulkan loader searches (Khronos, "Vulkan loader and
driver interface"); that is cheap. Devices are asked of ``vulkaninfo --summary`` where that tool is installed and a
driver for hardware is. Nothing is planned on a device of this list alone: ``machine.devices`` come from their vendors'
probes, and a device here says which of them it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from advisor.facts.machine import Device, Vulkan, VulkanDevice, VulkanKind
from advisor.facts.text import clean
from advisor.facts.words import Vendor
from advisor.probes.pci import AMD, INTEL, NVIDIA, read_pci
from advisor.probes.profiles import normal
from advisor.probes.sanity import Notes
from advisor.probes.source import Source

_FOLDERS: Final = (
    *("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/local/etc/vulkan/icd.d"),
    *("/run/opengl-driver/share/vulkan/icd.d", "/opt/homebrew/etc/vulkan/icd.d", "/opt/homebrew/share/vulkan/icd.d"),
)
# VK_ICD_FILENAMES is the older name of VK_DRIVER_FILES; either replaces the search.
_GIVEN: Final = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
_SOFTWARE: Final = re.compile(r"lvp|lavapipe|swiftshader|vk_swiftshader|llvmpipe", re.IGNORECASE)
_KINDS: Final[dict[str, VulkanKind]] = {
    "DISCRETE_GPU": "discrete",
    "INTEGRATED_GPU": "integrated",
    "VIRTUAL_GPU": "virtual",
    "CPU": "cpu",
}
_APPLE: Final = 0x106B
_VENDORS: Final[dict[int, Vendor]] = {NVIDIA: "nvidia", AMD: "amd", INTEL: "intel", _APPLE: "apple"}
_MAX_DEVICES: Final = 64
_MAX_MANIFESTS: Final = 64


def read_vulkan(
    source: Source, notes: Notes, *, deadline_s: float, environment: Mapping[str, str], devices: tuple[Device, ...]
) -> Vulkan | None:
    """Drivers and devices; ``None`` where no driver is installed."""
    given = next((environment[name] for name in _GIVEN if environment.get(name)), None)
    manifests = _given(given) if given is not None else _installed(source)
    if not manifests:
        return None
    drivers = tuple(dict.fromkeys(_name(path, source) for path in manifests))
    notes.add("vulkan.drivers", "driver manifests" if given is None else "VK_DRIVER_FILES")
    if all(_SOFTWARE.search(driver) for driver in drivers):
        notes.add("vulkan.devices", "driver manifests", "software drivers only; not planned on")
        return Vulkan(drivers=drivers, devices=())
    if given is not None:
        notes.add("vulkan.devices", "VK_DRIVER_FILES", "not asked: a driver is chosen for other programs")
        return Vulkan(drivers=drivers)
    reply = source.ask("vulkaninfo", deadline_s)
    out = reply.get("stdout")
    if not isinstance(out, str):
        error = reply.get("error")
        why = clean(str(error.get("message")), 120) if isinstance(error, dict) else "no answer"
        notes.add("vulkan.devices", "vulkaninfo", f"not known: {why}")
        return Vulkan(drivers=drivers)
    found = parse_summary(out)
    notes.add("vulkan.devices", "vulkaninfo", None if found else "it lists no device")
    numbers = {d.address: (d.vendor, d.device) for d in read_pci(source)}
    return Vulkan(drivers=drivers, devices=merged(found, devices, numbers))


def _given(paths: str) -> tuple[str, ...]:
    return tuple(p for p in paths.split(":") if p.endswith(".json"))[:_MAX_MANIFESTS]


def _installed(source: Source) -> tuple[str, ...]:
    found = [f"{folder}/{name}" for folder in _FOLDERS for name in source.names(folder) or () if name.endswith(".json")]
    return tuple(found[:_MAX_MANIFESTS])


def _name(path: str, source: Source) -> str:
    """``radeon_icd.x86_64`` of the file's name; a software driver behind another name is known by its library."""
    name = clean(path.rsplit("/", 1)[-1].removesuffix(".json"), 60)
    if not _SOFTWARE.search(name):
        library = _library(source.text(path))
        if _SOFTWARE.search(library):
            return f"{name} (lavapipe)" if "lvp" in library else f"{name} (software)"
    return name


def _library(text: str | None) -> str:
    """``ICD.library_path`` of a manifest; empty where it has none."""
    try:
        found: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return ""
    icd = found.get("ICD") if isinstance(found, dict) else None
    path = icd.get("library_path") if isinstance(icd, dict) else None
    return path.rsplit("/", 1)[-1] if isinstance(path, str) else ""


def parse_summary(text: str) -> tuple[VulkanDevice, ...]:
    """The devices in the text of ``vulkaninfo``, short or long; one that two drivers show is listed once.

    Newer versions write versions as ``1.3.277``, older ones as ``4206869 (1.3.277)``.
    """
    found: list[VulkanDevice] = []
    seen: set[str] = set()
    for block in _blocks(text):
        kind = block.get("deviceType", "").removeprefix("PHYSICAL_DEVICE_TYPE_")
        name = clean(block.get("deviceName", ""), 120)
        uuid = block.get("deviceUUID", "")
        if not name or (uuid and uuid in seen):
            continue
        seen.add(uuid)
        driver = clean(block.get("driverName", ""), 80) or None
        software = _SOFTWARE.search(name) is not None
        found.append(
            VulkanDevice(
                name=name,
                kind="cpu" if software else _KINDS.get(kind, "other"),
                driver=driver,
                driver_version=clean(block.get("driverInfo", ""), 80) or None,
                api_version=_version(block.get("apiVersion", "")),
                vendor_id=_hex(block.get("vendorID", "")),
                device_id=_hex(block.get("deviceID", "")),
                memory_bytes=_heap(block.get("heap", "")),
            )
        )
    return tuple(found[:_MAX_DEVICES])


def _blocks(text: str) -> list[dict[str, str]]:
    """One dict a device: a block begins with ``GPU0:`` or, in the long form, with its properties."""
    blocks: list[dict[str, str]] = []
    heap = 0
    for line in text.split("\n"):
        word = line.strip()
        if re.fullmatch(r"GPU\d{1,3}:", word, re.ASCII):
            blocks.append({})
            continue
        if not blocks:
            continue
        key, equals, value = word.partition("=")
        if equals:
            name = key.strip()
            # The long form repeats names in later parts; the first is the device's own.
            blocks[-1].setdefault(name, value.strip())
            if name == "size" and (match := re.match(r"(\d{1,19})\b", value.strip(), re.ASCII)):
                heap = int(match[1])
        elif word == "MEMORY_HEAP_DEVICE_LOCAL_BIT" and heap > int(blocks[-1].get("heap", "0")):
            blocks[-1]["heap"] = str(heap)
    return blocks


def _version(text: str) -> str | None:
    match = re.search(r"\b(\d{1,3}\.\d{1,4}\.\d{1,5})\b", text, re.ASCII)
    return match[1] if match else None


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else None


def _heap(text: str) -> int | None:
    return int(text) if text and 1 << 20 <= int(text) <= 1 << 50 else None


def merged(
    found: tuple[VulkanDevice, ...], devices: tuple[Device, ...], numbers: Mapping[str, tuple[int, int]]
) -> tuple[VulkanDevice, ...]:
    """Each device with the id under which its vendor's probe lists it: by the numbers on the PCI bus, by name, or as
    the only one of its vendor.

    Args:
        numbers: the vendor's and the device's number by PCI address. Equal cards are taken in the order of the bus.
    """
    left = list(devices)
    placed: list[VulkanDevice] = []
    for one in found:
        same: Device | None = None
        if one.kind != "cpu" and one.vendor_id in _VENDORS:
            of_vendor = [d for d in left if d.vendor == _VENDORS[one.vendor_id]]
            same = next(
                (d for d in of_vendor if d.pci and numbers.get(d.pci) == (one.vendor_id, one.device_id)), None
            ) or next((d for d in of_vendor if _alike(d.name, one.name)), None)
            others = [v for v in found if v.vendor_id == one.vendor_id and v.kind != "cpu"]
            if same is None and len(of_vendor) == 1 and len(others) == 1:
                same = of_vendor[0]
        if same is not None:
            left.remove(same)
        placed.append(msgspec.structs.replace(one, device=same.id if same else None))
    return tuple(placed)


def _alike(one: str, other: str) -> bool:
    """The vendor's name is in Vulkan's, which adds the driver: ``AMD Radeon RX 7900 XTX (RADV NAVI31)``."""
    short, long = normal(one.split("(", maxsplit=1)[0]), normal(other)
    return bool(short) and (f"-{short}-" in f"-{long}-")
