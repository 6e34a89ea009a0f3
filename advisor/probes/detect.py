"""The probe: asks each part of the machine once, cheapest first, and puts the answers together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from advisor.facts.machine import Device, Host, HostMemory, Machine, NumaNode
from advisor.facts.plan import Warning_
from advisor.facts.text import clean
from advisor.facts.words import Vendor
from advisor.probes import darwin, surroundings
from advisor.probes.bundle import RecordingSource
from advisor.probes.cpu import read_cpu
from advisor.probes.memory import read_memory
from advisor.probes.pci import read_pci
from advisor.probes.sanity import Notes
from advisor.probes.source import LiveSource, Source
from advisor.probes.vendors import NAMES, probe_of
from advisor.probes.vendors.base import Look, unusable
from advisor.probes.vulkan import read_vulkan

_SYSTEMS: Final[dict[str, str]] = {"Linux": "linux", "Darwin": "darwin", "Windows": "windows"}


class Probed(NamedTuple):
    """A machine, and what a user should know about how it was read."""

    machine: Machine
    warnings: tuple[Warning_, ...]


def detect(
    source: Source | None = None, *, deadline_s: float = 3.0, environment: Mapping[str, str] | None = None
) -> Probed:
    """Probe the machine.

    On a machine without an accelerator nothing but files is read; with one, its driver is asked in a process of its
    own, which is given ``deadline_s``. Several vendors are asked at once.

    Args:
        source: where raw facts come from; this machine by default.
        environment: device selections such as ``CUDA_VISIBLE_DEVICES``, as far as they are set.

    Raises:
        AdvisorError: ``probe-failed`` when even the size of the memory cannot be read.
    """
    # What several parts read is read once; what a tool that hangs costs is paid once.
    source = source if isinstance(source, RecordingSource) else RecordingSource(source or LiveSource())
    notes = Notes()
    platform = source.platform()
    environment = environment or {}
    memory = read_memory(source, platform, notes, deadline_s=deadline_s)
    mac = darwin.sysctl(source, deadline_s) if platform.system == "Darwin" else {}
    numa = surroundings.read_numa(source, notes)
    cpu = read_cpu(source, platform, notes, deadline_s=deadline_s)
    host = Host(
        os=_SYSTEMS.get(platform.system, clean(platform.system, 40).lower()),
        arch=clean(platform.machine, 40),
        cpu=cpu,
        memory=_near_memory(memory, numa, notes),
        bandwidth=None,
        numa=numa,
        swap=darwin.swap(mac) if mac else surroundings.read_swap(source, notes),
        virtualization=surroundings.read_virtualization(source, notes),
        container=surroundings.read_container(source, environment, notes),
        # Where sysctl does not answer, py-cpuinfo may have given the brand.
        translated=platform.system == "Darwin"
        and darwin.is_translated({"machdep.cpu.brand_string": cpu.name} | mac, platform),
    )
    devices = _devices(source, host, notes, deadline_s=deadline_s, environment=environment)
    devices = _numbered(surroundings.explain_missing(devices, source, host.container))
    vulkan = read_vulkan(source, notes, deadline_s=deadline_s, environment=environment, devices=devices)
    machine = Machine(host=host, devices=devices, runtimes=(), provenance=notes.entries, vulkan=vulkan)
    return Probed(machine=machine, warnings=warnings_of(machine))


def warnings_of(machine: Machine) -> tuple[Warning_, ...]:
    """What of a probed machine deserves a warning: unusable devices, invalid values, translated Python."""
    found = [
        Warning_(code="device-unusable", message=f"{d.id}, {clean(d.name, 80)}: {clean(d.unusable)}")
        for d in machine.devices
        if d.unusable is not None and not d.for_screens
    ]
    found += [
        Warning_(code="device-limited", message=f"{clean(p.what, 80)}: {clean(p.note.removeprefix('limited: '))}.")
        for p in machine.provenance
        if p.note is not None and p.note.startswith("limited: ")
    ]
    found += [
        Warning_(code="probe-invalid-value", message=f"{clean(p.what, 80)} ({clean(p.source, 80)}): {clean(p.note)}")
        for p in machine.provenance
        if p.note is not None and p.note.startswith("invalid")
    ]
    found += [
        Warning_(code="device-order-ambiguous", message=f"{clean(p.source, 80)} is {clean(p.note)}.")
        for p in machine.provenance
        if p.note is not None and p.note.startswith("ambiguous")
    ]
    host = machine.host
    if host.translated:
        found.append(
            Warning_(code="rosetta", message="This Python is translated (x86_64 on Apple silicon); use a native one.")
        )
    found += [
        Warning_(
            code="wired-limit-low",
            message=f"{d.id} may take {d.memory.usable_bytes} of {d.memory.total_bytes} bytes of memory, less than a "
            "Mac grants by itself; the limit is iogpu.wired_limit_mb.",
        )
        for d in machine.devices
        if d.vendor == "apple" and d.memory.total_bytes and d.memory.usable_bytes is not None
        # Macs grant 0.66 of it or more by themselves.
        if d.memory.usable_bytes < 0.6 * d.memory.total_bytes
    ]
    if host.store is not None and host.store.kind == "memory":
        found.append(
            Warning_(
                code="store-in-memory",
                message="advisor's store is a file system in memory (tmpfs): every artifact in it takes memory from "
                "models. ADVISOR_HOME moves it to a disk.",
            )
        )
    return tuple(found)


def _near_memory(memory: HostMemory, numa: tuple[NumaNode, ...], notes: Notes) -> HostMemory:
    """The memory with the limit that a cpuset sets by leaving nodes out."""
    near = surroundings.allowed_memory(numa)
    if near is None or near >= (memory.total_bytes if memory.limit_bytes is None else memory.limit_bytes):
        return memory
    notes.add("memory.limit_bytes", "/proc/self/status Mems_allowed_list", "memory nodes that the cpuset leaves out")
    free = memory.available_bytes
    return HostMemory(
        total_bytes=memory.total_bytes, limit_bytes=near, available_bytes=None if free is None else min(free, near)
    )


def _devices(
    source: Source, host: Host, notes: Notes, *, deadline_s: float, environment: Mapping[str, str]
) -> tuple[Device, ...]:
    """The devices of all vendors; a vendor whose driver hangs costs its deadline, whatever the others do."""
    pci = read_pci(source)
    looks = {name: Look(source, pci, host, Notes(), deadline_s, environment) for name in NAMES}
    there = [name for name in NAMES if probe_of(name).present(looks[name])]
    found = (
        _at_once({name: looks[name] for name in there}) if len(there) > 1 else {n: _read(n, looks[n]) for n in there}
    )
    devices: tuple[Device, ...] = ()
    for name in there:
        what, own = f"devices.{name}", looks[name].notes
        if found[name] and not any(p.what.startswith(what) for p in own.entries):
            notes.add(what, "PCI bus" if host.os == "linux" else "system")
        notes.extend(own)
        devices += found[name]
    if not devices:
        notes.add("devices", "PCI bus", "no device for computing found")
    return devices


def _read(name: Vendor, look: Look) -> tuple[Device, ...]:
    """The devices of one vendor; a fault in its probe costs that vendor only."""
    try:
        return probe_of(name).read(look)
    except Exception as e:  # noqa: BLE001 - whatever a driver said that nobody thought of, the plan goes on
        return (unusable(name, f"{name} device", f"the probe failed: {type(e).__name__}: {clean(str(e), 120)}"),)


def _at_once(looks: dict[Vendor, Look]) -> dict[Vendor, tuple[Device, ...]]:
    """Every vendor in a thread of its own. Each question has its own deadline, so that all threads end."""
    import threading

    found: dict[Vendor, tuple[Device, ...]] = {}

    def run(name: Vendor) -> None:
        found[name] = _read(name, looks[name])

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _numbered(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Ids in order, usable devices first: ``gpu0`` is the first that can be used."""
    ordered = [d for d in devices if d.unusable is None] + [d for d in devices if d.unusable is not None]
    return tuple(msgspec.structs.replace(d, id=f"gpu{n}") for n, d in enumerate(ordered))
