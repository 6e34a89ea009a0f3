"""The probe: asks each part of the machine once, cheapest first, and puts the answers together."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from advisor.facts.machine import Device, Host, Machine
from advisor.facts.plan import Warning_
from advisor.facts.text import clean
from advisor.probes.cpu import read_cpu
from advisor.probes.memory import read_memory
from advisor.probes.nvidia import read_nvidia
from advisor.probes.pci import read_others, read_pci
from advisor.probes.sanity import Notes
from advisor.probes.source import LiveSource, Source

_SYSTEMS: Final[dict[str, str]] = {"Linux": "linux", "Darwin": "darwin", "Windows": "windows"}


class Probed(NamedTuple):
    """A machine, and what a user should know about how it was read."""

    machine: Machine
    warnings: tuple[Warning_, ...]


def detect(source: Source | None = None, *, deadline_s: float = 3.0, visible: str | None = None) -> Probed:
    """Probe the machine.

    On a machine without an NVIDIA device nothing but files is read; with one, the driver is asked in a process of its
    own, which is given ``deadline_s``.

    Args:
        source: where raw facts come from; this machine by default.
        visible: the value of ``CUDA_VISIBLE_DEVICES``; ``None`` where it is not set.

    Raises:
        AdvisorError: ``probe-failed`` when even the size of the memory cannot be read.
    """
    source = source or LiveSource()
    notes = Notes()
    platform = source.platform()
    memory = read_memory(source, platform, notes)
    host = Host(
        os=_SYSTEMS.get(platform.system, clean(platform.system, 40).lower()),
        arch=clean(platform.machine, 40),
        cpu=read_cpu(source, platform, notes, deadline_s=deadline_s),
        memory=memory,
        bandwidth=None,
    )
    machine = Machine(
        host=host,
        devices=_numbered(_devices(source, host, notes, deadline_s=deadline_s, visible=visible)),
        runtimes=(),
        provenance=notes.entries,
    )
    return Probed(machine=machine, warnings=warnings_of(machine))


def warnings_of(machine: Machine) -> tuple[Warning_, ...]:
    """What of a probed machine deserves a warning: unusable devices, invalid values, translated Python."""
    found = [
        Warning_(code="device-unusable", message=f"{d.id}, {clean(d.name, 80)}: {clean(d.unusable)}")
        for d in machine.devices
        if d.unusable is not None
    ]
    found += [
        Warning_(code="probe-invalid-value", message=f"{clean(p.what, 80)} ({clean(p.source, 80)}): {clean(p.note)}")
        for p in machine.provenance
        if p.note is not None and p.note.startswith("invalid")
    ]
    host = machine.host
    if host.os == "darwin" and host.arch == "x86_64" and host.cpu.name.startswith("Apple"):
        found.append(
            Warning_(code="rosetta", message="This Python is translated (x86_64 on Apple silicon); use a native one.")
        )
    return tuple(found)


def _devices(source: Source, host: Host, notes: Notes, *, deadline_s: float, visible: str | None) -> tuple[Device, ...]:
    pci = read_pci(source)
    found = read_nvidia(source, pci, host.memory, notes, deadline_s=deadline_s, visible=visible)
    found += read_others(source, pci, notes)
    if host.os == "darwin":
        from advisor.probes.apple import read_apple

        found += read_apple(host, notes)
    if not found:
        notes.add("devices", "PCI bus", "no device for computing found")
    return found


def _numbered(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Ids in order, usable devices first: ``gpu0`` is the first that can be used."""
    ordered = [d for d in devices if d.unusable is None] + [d for d in devices if d.unusable is not None]
    return tuple(msgspec.structs.replace(d, id=f"gpu{n}") for n, d in enumerate(ordered))
