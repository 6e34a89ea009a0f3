"""NVIDIA devices: a cheap look whether there are any, then the driver's own answer, judged.

The driver is asked through its library (NVML); where that is missing or fails, through ``nvidia-smi``. A driver that
does not answer in time is not asked a second time. On a Jetson the device tree stands in for a missing library.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from advisor.facts.machine import Device, DeviceMemory
from advisor.facts.text import clean
from advisor.probes.pci import PciDevice
from advisor.probes.vendors.base import Look, unusable
from advisor.probes.vendors.nvidia_absent import (
    CONTROL,
    KERNEL,
    WSL_LIBRARY,
    error_of,
    held,
    pci_key,
    reason_of,
    silent,
    unlisted,
    unreachable,
)
from advisor.probes.vendors.nvidia_select import Entry, select

if TYPE_CHECKING:
    from advisor.probes.matching import Match

VENDOR: Final = 0x10DE
_WHAT: Final = "devices.nvidia"
_CERTAIN: Final = (CONTROL, KERNEL, WSL_LIBRARY)
# A GPU that the driver can reach without PCI: WSL 2 (of any maker), Jetson.
_TEGRA: Final = ("/dev/nvhost-gpu", "/dev/nvgpu")
_POSSIBLE: Final = ("/dev/dxg", *_TEGRA)
# nvidia-smi goes the same way to the driver and would only hang or fail again.
_FINAL: Final = ("deadline", "DRIVER_NOT_LOADED", "NO_PERMISSION")
# Modules by the part number in the device tree. Source: Jetson Linux Developer Guide, "Jetson Modules and
# Configurations". The 4 GB Orin Nano (p3767-0004) has half the bandwidth of its profile and is left out.
_MODULES: Final = (
    (r"p3701-", "jetson-agx-orin"),
    (r"p3767-000[01]\b", "jetson-orin-nx"),
    (r"p3767-000[35]\b", "jetson-orin-nano"),
    (r"p3834-", "jetson-thor"),
)


class Nvidia:
    """NVIDIA devices, as the driver's library tells of them."""

    name = "nvidia"

    def present(self, look: Look, /) -> bool:
        """A device on the bus, a loaded driver, or a device file behind which there may be one."""
        return _certain(look) or any(look.source.exists(path) for path in _POSSIBLE)

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices, visible ones first in the order of ``CUDA_VISIBLE_DEVICES``."""
        return _read(look)


PROBE: Final = Nvidia()


def _certain(look: Look) -> bool:
    return bool(look.of(VENDOR)) or any(look.source.exists(path) for path in _CERTAIN)


def _read(look: Look) -> tuple[Device, ...]:
    seen = look.of(VENDOR)
    others = {d.address: reason for d in seen if (reason := held(look, d)) is not None}
    if seen and len(others) == len(seen):
        look.notes.add(_WHAT, "PCI bus", "another kernel driver holds each of them")
        return tuple(_on_bus(look, d, others[d.address]) for d in seen)
    tegra = _tegra(look)
    closed = unreachable(look) if tegra is None else None
    if closed is not None:
        look.notes.add(_WHAT, "/dev", closed)
        return _listed(look, closed, certain=_certain(look))
    source, reply, why = _ask(look)
    if reply is None:
        look.notes.add(_WHAT, source, why)
        if tegra is not None and "does not answer" not in why:
            return (_without_driver(look, tegra),)
        return _listed(look, why, certain=tegra is not None or _certain(look))
    return _devices(look, source, reply, tegra)


def _ask(look: Look) -> tuple[str, dict[str, Any] | None, str]:
    """Who was asked, the reply, and if there is none the reason."""
    began = time.monotonic()
    reply = look.source.ask("nvml", look.deadline_s)
    error = reply.get("error")
    if error is None and isinstance(reply.get("devices"), list):
        return "NVML", reply, ""
    error = error if isinstance(error, dict) else {"code": "no-answer"}
    stdout: object = None
    left = look.deadline_s - (time.monotonic() - began)
    # Without the library, and with nothing else that tells of a driver, there is no nvidia-smi either.
    known = look.source.exists(CONTROL) or error.get("code") != "LIBRARY_NOT_FOUND"
    if known and error.get("code") not in _FINAL and left > 0:
        from advisor.probes.vendors.nvidia_smi import parse

        stdout = look.source.ask("nvidia-smi", left).get("stdout")
        reply_2 = parse(stdout)
        if reply_2 is not None:
            look.notes.add(_WHAT, "NVML", f"{reason_of(error, look.deadline_s)}; nvidia-smi is asked instead")
            return "nvidia-smi", reply_2, ""
    return "NVML", None, silent(look, error, stdout)


def _devices(look: Look, source: str, reply: dict[str, Any], tegra: str | None) -> tuple[Device, ...]:
    from advisor.probes.vendors.nvidia_device import Driver, device

    version = clean(reply["driver"], 40).strip() or None if isinstance(reply.get("driver"), str) else None
    driver = Driver(source, version, _cuda(reply.get("cuda")))
    look.notes.add(_WHAT, source, f"driver {version}" if version else "driver version unknown")
    raws = [raw for raw in reply["devices"][:256] if isinstance(raw, dict)]
    entries = select([e for raw in raws for e in _entries(raw, look.deadline_s)], look.environment, look.notes)
    module = _module(tegra) if len(raws) == 1 else None
    found = tuple(
        device(e, look.host.memory, driver, look.notes, profile_id=module, shared=tegra is not None) for e in entries
    )
    return found + _left_out(look, raws)


def _entries(raw: dict[str, Any], deadline_s: float) -> list[Entry]:
    index = raw["index"] if type(raw.get("index")) is int else -1
    uuid = raw["uuid"] if isinstance(raw.get("uuid"), str) else ""
    lost = error_of(raw) or raw.get("error")
    if lost is not None:
        return [Entry(index, raw, uuid, None, reason_of({"code": lost}, deadline_s))]
    mig = raw.get("mig")
    if not isinstance(mig, dict):
        return [Entry(index, raw, uuid, None, None)]
    parts = mig.get("slices")
    slices = [s for s in parts[:64] if isinstance(s, dict)] if isinstance(parts, list | tuple) else []
    if not slices:
        return [Entry(index, raw, uuid, None, "it is in MIG mode, but has no slices")]
    return [Entry(index, s, s["uuid"] if isinstance(s.get("uuid"), str) else "", raw, None) for s in slices]


def _left_out(look: Look, raws: list[dict[str, Any]]) -> tuple[Device, ...]:
    """Devices on the bus that the driver does not list, as far as it tells addresses."""
    told = {pci_key(raw.get("pci")) for raw in raws}
    missing = [d for d in look.of(VENDOR) if d.address.lower() not in told]
    # An entry without an address is one of those that are missing here; which one cannot be told.
    nameless = sum(pci_key(raw.get("pci")) is None for raw in raws)
    missing = missing[: max(0, len(missing) - nameless)]
    if missing and look.host.container is not None:
        look.notes.add(_WHAT, "PCI bus", f"{len(missing)} more on the bus, not given to this container")
        return ()
    return tuple(_on_bus(look, d, unlisted(look, d)) for d in missing)


def _listed(look: Look, reason: str, *, certain: bool) -> tuple[Device, ...]:
    """What is there for certain, with the one reason why none of it can be used."""
    seen = look.of(VENDOR)
    if seen:
        return tuple(_on_bus(look, d, held(look, d) or reason) for d in seen)
    return (unusable("nvidia", "NVIDIA device", reason),) if certain else ()


def _on_bus(look: Look, seen: PciDevice, reason: str) -> Device:
    """A device of which only the bus tells: its name and figures are those of the profile that has its PCI id."""
    match = _match(seen)
    address = pci_key(seen.address)
    if not match.profiles:
        nameless = unusable("nvidia", f"NVIDIA device {seen.device:04x} (PCI)", reason)
        return msgspec.structs.replace(nameless, pci=address)
    name = f"{match.name} (by PCI id)"
    source = " and ".join(p.file for p in match.profiles)
    look.notes.add(f"{name} {seen.address}", source, "all figures are from this table; no driver tells them")
    capabilities = {p.compute_capability for p in match.profiles}
    return Device(
        id="gpu",
        vendor="nvidia",
        name=name,
        profile=match.profile.id if match.profile is not None else None,
        memory=DeviceMemory(total_bytes=match.memory_bytes, usable_bytes=None, free_bytes=None),
        bandwidth=match.bandwidth,
        compute_capability=capabilities.pop() if len(capabilities) == 1 else None,
        formats=match.formats,
        unified_memory=match.unified_memory or False,
        link=None,
        unusable=reason,
        fp16_tflops=match.fp16_tflops,
        arch=match.arch,
        pci=address,
    )


def _match(seen: PciDevice) -> Match:
    """The profiles that have the PCI id. A catalogue that cannot be read costs the name only, not the reason."""
    # Imported here: where the driver answers for every device, it tells their names itself.
    from advisor.errors import AdvisorError
    from advisor.probes.matching import Match, match_pci

    try:
        return match_pci(seen)
    except AdvisorError:
        return Match()


def _tegra(look: Look) -> str | None:
    """The device tree's words for board and module where this is a Jetson with a GPU; ``None`` on any other machine."""
    if look.of(VENDOR) or not any(look.source.exists(path) for path in _TEGRA):
        return None
    words = look.source.text("/proc/device-tree/compatible") or ""
    return words[:1000] if "nvidia,tegra" in words else None


def _module(tegra: str | None) -> str | None:
    return next((profile for pattern, profile in _MODULES if re.search(pattern, tegra)), None) if tegra else None


def _without_driver(look: Look, tegra: str) -> Device:
    """The GPU of a Jetson whose driver has no library: older ones have none, CUDA works all the same."""
    from advisor.probes.vendors.nvidia_device import Driver, device

    board = clean((look.source.text("/proc/device-tree/model") or "").rstrip("\0\n"), 80) or "NVIDIA Jetson"
    release = re.match(
        r"# R(\d{1,3}) \(release\), REVISION: (\d[\d.]{0,9})", look.source.text("/etc/nv_tegra_release") or ""
    )
    driver = Driver("device tree", f"L4T {release[1]}.{release[2]}" if release else None, None)
    look.notes.add(_WHAT, "device tree", driver.version)
    raw = {"name": board}
    (entry,) = select([Entry(0, raw, "", None, None)], look.environment, look.notes)
    return device(entry, look.host.memory, driver, look.notes, profile_id=_module(tegra), shared=True)


def _cuda(value: Any) -> str | None:
    """12080 is CUDA 12.8."""
    if type(value) is int and 1000 <= value < 100_000:
        return f"{value // 1000}.{value % 1000 // 10}"
    return value if isinstance(value, str) and re.fullmatch(r"\d{1,2}\.\d{1,2}", value, re.ASCII) else None
