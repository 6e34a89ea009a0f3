"""Apple silicon: the chip's name and its number of GPU cores give the device; its GPU has the host's memory.

How much of that memory the GPU may take is asked of Metal (``recommendedMaxWorkingSetSize``), which follows the wired
limit (``iogpu.wired_limit_mb``); where Metal does not answer, the limit itself counts, else the shares measured on
other Macs. ``ioreg`` gives the number of cores in 15 ms; ``system_profiler`` gives the same one in 300.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from advisor.facts.machine import Device, DeviceMemory
from advisor.facts.quantity import Quantity
from advisor.facts.text import clean
from advisor.probes import darwin
from advisor.probes.profiles import HardwareProfile
from advisor.probes.sanity import within
from advisor.probes.vendors.base import Look, unusable

_CHIP: Final = re.compile(r"Apple (M\d+(?: (?:Pro|Max|Ultra))?)\b", re.ASCII)
_CORES: Final = re.compile(r'"gpu-core-count"\s*=\s*(\d{1,4})\b', re.ASCII)
# Older systems have it under debug.
_WIRED: Final = ("iogpu.wired_limit_mb", "debug.iogpu.wired_limit")


class Apple:
    """The GPU of an Apple chip."""

    name = "apple"

    def present(self, look: Look, /) -> bool:
        """A Mac."""
        return look.host.os == "darwin"

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """At most one device, with the host's memory."""
        return _read(look)


PROBE: Final = Apple()


class Chosen(NamedTuple):
    """The profiles that a chip may be, the least of them first, and the number of GPU cores where it is known."""

    profiles: tuple[HardwareProfile, ...]
    cores: int | None


def gpu_cores(reply: dict[str, Any]) -> int | None:
    """``gpu-core-count`` in a reply of ``ioreg -rc AGXAccelerator``."""
    out = reply.get("stdout")
    match = _CORES.search(out) if isinstance(out, str) else None
    return int(match[1]) if match and within(int(match[1]), "cores") else None


def _read(look: Look) -> tuple[Device, ...]:
    host, notes = look.host, look.notes
    if host.translated:
        reason = "this Python is translated by Rosetta (x86_64); a native one (arm64) can use Metal"
        return (unusable("apple", clean(host.cpu.name, 80), reason),)
    match = _CHIP.match(host.cpu.name)
    if match is None:
        notes.add("devices.apple", "CPU brand", "not an Apple chip: its graphics are not planned on")
        return ()
    chosen = _choose(match[1].lower().replace(" ", "-"), look)
    device = _of(chosen, look)
    memory = _memory(look, device.memory)
    return (msgspec.structs.replace(device, memory=memory),)


def _choose(chip: str, look: Look) -> Chosen:
    """The profile with as many cores as there are; with fewer cores than any, the smallest one that has more."""
    # Imported here: the catalogue is of no use on any other machine.
    from advisor.probes.catalog import find, names

    known = [find(i) for i in names() if re.fullmatch(rf"{chip}(-\d+)?", i)]
    known.sort(key=lambda p: (p.bandwidth_bytes_per_s or 0, _count(p) or 0))
    cores = gpu_cores(look.source.ask("ioreg", look.deadline_s))
    if cores is None:
        why = "does not say how many GPU cores there are"
        look.notes.add("devices.apple", "ioreg AGXAccelerator", why if known else f"{why}; no profile of {chip}")
        return Chosen(tuple(known), None)
    look.notes.add("devices.apple", "ioreg AGXAccelerator", f"{cores} GPU cores")
    counted = [(count, p) for p in known if (count := _count(p)) is not None and count >= cores]
    if not counted:
        return Chosen(tuple(known), cores)
    return Chosen((min(counted, key=lambda one: one[0])[1],), cores)


def _count(profile: HardwareProfile) -> int | None:
    """The number of GPU cores in a profile's name: ``Apple M3 Max (40)``."""
    match = re.search(r"\((\d+)", profile.name, re.ASCII)
    return int(match[1]) if match else None


def _of(chosen: Chosen, look: Look) -> Device:
    """The device as the profiles have it. Where several are left, the bandwidth spans them and the lowest counts."""
    from advisor.probes.named import device_of

    host = look.host
    if not chosen.profiles:
        look.notes.add("devices.apple", "profiles/hardware", f"no profile of {host.cpu.name}; bandwidth is unknown")
        return Device(
            id="gpu",
            vendor="apple",
            name=host.cpu.name,
            profile=None,
            memory=DeviceMemory(total_bytes=host.memory.total_bytes, usable_bytes=None, free_bytes=None),
            bandwidth=None,
            compute_capability=None,
            formats={},
            unified_memory=True,
            link=None,
            unusable=None,
        )
    first = chosen.profiles[0]
    device = device_of(first, "gpu", total=host.memory.total_bytes)
    if len(chosen.profiles) == 1:
        full = _count(first)
        if chosen.cores is None or full is None or full == chosen.cores:
            return device
        name = f"{host.cpu.name} ({chosen.cores})"
        look.notes.add("devices.apple", first.file, f"has {full} GPU cores; arithmetic scaled to {chosen.cores}")
        rate = device.fp16_tflops
        return msgspec.structs.replace(
            device, name=name, fp16_tflops=None if rate is None else rate * chosen.cores / full
        )
    rates = [p.bandwidth_bytes_per_s for p in chosen.profiles if p.bandwidth_bytes_per_s]
    if not rates:
        return msgspec.structs.replace(device, profile=None, name=host.cpu.name)
    if rates[0] == rates[-1]:
        # They differ in arithmetic only: the least of them stands for all.
        return msgspec.structs.replace(device, name=host.cpu.name)
    rate_of_all = Quantity(
        value=rates[0],
        low=rates[0],
        high=rates[-1],
        unit="bytes/s",
        method="table",
        source=" and ".join(p.file for p in chosen.profiles),
    )
    return msgspec.structs.replace(device, bandwidth=rate_of_all, profile=None, name=host.cpu.name)


def _memory(look: Look, table: DeviceMemory) -> DeviceMemory:
    """What the GPU may take: as Metal says, else the wired limit, else the share of Macs of this size."""
    notes, what, total = look.notes, "devices.apple.usable_bytes", look.host.memory.total_bytes
    reply = look.source.ask("metal", look.deadline_s)
    asked = notes.sane_int(reply.get("recommended_max_working_set_size"), "memory", what, "Metal")
    settings = darwin.sysctl(look.source, look.deadline_s)
    wired = next((n << 20 for name in _WIRED if (n := darwin.number(settings, name))), None)
    reach: int | None
    if asked is not None and asked <= total:
        reach = asked
        notes.add(what, "Metal recommendedMaxWorkingSetSize")
    elif wired is not None and within(wired, "memory"):
        reach = min(wired, total)
        notes.add(what, f"sysctl {_WIRED[0]}", "Metal was not asked or did not answer")
    else:
        reach = table.usable_bytes
        error = reply.get("error")
        why = clean(str(error.get("message")), 120) if isinstance(error, dict) else "no figure that can be right"
        notes.add(what, "shares measured on other Macs", f"Metal did not answer: {why}")
    if wired is not None:
        notes.add(f"{what}.wired_limit", f"sysctl {_WIRED[0]}", f"set to {wired >> 20} MiB")
    left = look.host.memory.available_bytes
    free = None if reach is None or left is None else min(reach, left)
    return DeviceMemory(total_bytes=table.total_bytes, usable_bytes=reach, free_bytes=free)
