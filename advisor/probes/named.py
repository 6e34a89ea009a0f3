"""A machine put together from hardware profiles and the sizes that a user names."""

from __future__ import annotations

from typing import Final

import msgspec

from advisor.errors import AdvisorError
from advisor.facts import shown
from advisor.facts.machine import Cpu, Device, DeviceMemory, Host, HostMemory, Link, Machine, Provenance
from advisor.facts.quantity import Quantity, exact, spread
from advisor.probes.profiles import HardwareProfile
from advisor.probes.sanity import BOUNDS, within

GIB: Final = 1 << 30
# How the source of a value begins that a person named on the command line.
GIVEN: Final = "given by you"
_TAKEN: Final = "taken for granted"
# recommendedMaxWorkingSetSize as measured on Macs: 16 GB 10.67-11.84 GiB, 24 GB 17.76, 48 GB 37.4, 128 GB 107.5.
# The low end of each class; a raised iogpu.wired_limit_mb gives more.
_APPLE_SMALL: Final = (36 * GIB, 0.66)
_APPLE_LARGE: Final = 0.75
# Makers whose devices with the host's memory come without slots for cards; beside integrated graphics of the others
# there may be a card.
_WHOLE_MACHINES: Final = ("apple", "nvidia")


def device_of(profile: HardwareProfile, device_id: str, *, total: int | None = None) -> Device:
    """A device as its profile describes it; ``total`` replaces the profile's memory (unified parts come in sizes)."""
    size = total or profile.memory_bytes
    return Device(
        id=device_id,
        vendor=profile.vendor,
        name=profile.name,
        profile=profile.id,
        memory=DeviceMemory(total_bytes=size, usable_bytes=usable(profile, size), free_bytes=None),
        bandwidth=profile.bandwidth,
        compute_capability=profile.compute_capability,
        formats=dict(profile.formats),
        unified_memory=profile.unified_memory,
        link=Link(pcie_gen=profile.pcie.gen, pcie_width=profile.pcie.width) if profile.pcie else None,
        unusable=None,
        fp16_tflops=profile.fp16_tflops,
        arch=profile.arch,
    )


def usable(profile: HardwareProfile, total: int | None) -> int | None:
    """Bytes that a process can get of ``total``: the profile's own figure, or its share of another size."""
    if total is None:
        return None
    if profile.vendor == "apple":
        return int(total * (_APPLE_SMALL[1] if total <= _APPLE_SMALL[0] else _APPLE_LARGE))
    if profile.usable_bytes is None or not profile.memory_bytes:
        return total if profile.unified_memory else None
    return profile.usable_bytes * total // profile.memory_bytes


def machine_of(
    asked: tuple[HardwareProfile, ...],
    *,
    label: str,
    this: bool,
    cpu: bool,
    memory: int | None,
    vram: int | None,
    bandwidth: int | None,
    base: Machine,
) -> Machine:
    """See ``catalog.machine_from``; ``asked`` has one entry a device."""
    for option, value, kind in (
        ("--memory", memory, "memory"),
        ("--vram", vram, "memory"),
        ("--bandwidth", bandwidth, "bandwidth"),
    ):
        if value is not None and not within(value, kind):
            low, high = BOUNDS[kind]
            raise AdvisorError(
                "bad-option",
                f"{option} {value} is out of bounds: between {low:.0f} and {high:.0f}.",
                hint=f"advisor recommend {option} {'24GB' if kind == 'memory' else '1008GB/s'}",
            )
    if cpu and (asked or vram is not None):
        raise AdvisorError(
            "contradictory-options",
            "--hardware cpu is a machine without devices; it takes neither another device nor --vram.",
            hint="advisor recommend --hardware cpu",
        )
    unified = [p for p in asked if p.unified_memory]
    if len(unified) > 1 or (unified and this):
        raise AdvisorError(
            "contradictory-options",
            f"{unified[0].name} is a whole machine with one memory; it cannot be added to another one.",
            hint=f"advisor recommend --hardware {unified[0].id}",
        )
    board = next((p for p in unified if p.host_only), None)
    if board is not None and vram is not None:
        raise AdvisorError(
            "contradictory-options",
            f"{board.name} computes on its processor; there is no device that --vram could be the memory of.",
            hint=f"advisor recommend --hardware {board.id} --memory {vram}",
        )
    whole = board or next((p for p in unified if p.vendor in _WHOLE_MACHINES), None)
    if whole is not None and len(asked) > 1:
        other = next(p for p in asked if p is not whole)
        raise AdvisorError(
            "contradictory-options",
            f"{whole.name} is a whole machine with one memory; it takes no {other.name}.",
            hint=f"advisor recommend --hardware {other.id}",
        )
    if not asked and not cpu and memory is None and vram is None and bandwidth is None:
        return base
    notes = [] if asked or cpu else list(base.provenance)
    host = _unified_host(unified[0], memory, base, notes) if unified else _host(base, memory, notes, named=bool(asked))
    kept = base.devices if this and not cpu else ()
    fresh = tuple(
        device_of(
            p,
            f"gpu{len(kept) + n}",
            total=host.memory.total_bytes if p.unified_memory else None,
        )
        for n, p in enumerate(p for p in asked if not p.host_only)
    )
    devices = kept + fresh
    if vram is not None and not any(d.unusable is None for d in devices):
        devices += (_nameless(f"gpu{len(devices)}", notes),)
    devices = tuple(_changed(d, vram, bandwidth, memory, notes) if d.unusable is None else d for d in devices)
    if bandwidth is not None and not any(d.unusable is None for d in devices):
        host = msgspec.structs.replace(host, bandwidth=exact(bandwidth, "bytes/s", _given("--bandwidth")))
        notes.append(_noted("host.bandwidth", "--bandwidth", shown.bandwidth(bandwidth)))
    return Machine(
        host=host,
        devices=devices,
        runtimes=base.runtimes if this else (),
        provenance=tuple(notes),
        named=_label(label, memory, vram, bandwidth),
    )


def given(machine: Machine) -> tuple[str, ...]:
    """What of the machine a person named on the command line, in words: ``gpu0.memory: 22.4 GiB, given by you ...``."""
    return tuple(
        f"{p.what}: {p.note}" + (f", {p.source}" if p.source != _TAKEN else "")
        for p in machine.provenance
        if p.source.startswith(GIVEN) or p.source == _TAKEN
    )


def _given(option: str) -> str:
    return f"{GIVEN} ({option})"


def _noted(what: str, option: str, note: str) -> Provenance:
    return Provenance(what=what, source=_given(option), note=note)


def _label(label: str, memory: int | None, vram: int | None, bandwidth: int | None) -> str:
    changes = [f"memory {memory / GIB:.4g} GiB"] if memory is not None else []
    changes += [f"vram {vram / GIB:.4g} GiB"] if vram is not None else []
    changes += [f"bandwidth {bandwidth / 1e9:.4g} GB/s"] if bandwidth is not None else []
    return f"{label} with {', '.join(changes)}" if changes else label


def _host(base: Machine, memory: int | None, notes: list[Provenance], *, named: bool) -> Host:
    if memory is not None:
        notes.append(_noted("host.memory", "--memory", f"{shown.size(memory)}, all of it free"))
        if named:
            notes.append(
                Provenance(what="host.cpu", source="this machine", note="not named; taken to be like this one")
            )
        given = HostMemory(total_bytes=memory, limit_bytes=None, available_bytes=None)
        return msgspec.structs.replace(base.host, memory=given)
    if named:
        notes.append(
            Provenance(
                what="host", source="this machine", note="not named; taken to be this one, --memory gives another size"
            )
        )
    return base.host


def _unified_host(profile: HardwareProfile, memory: int | None, base: Machine, notes: list[Provenance]) -> Host:
    """The host of a device that shares its memory: the profile's CPU, and the one memory."""
    total = memory or profile.memory_bytes
    if total is None:
        total = base.host.memory.total_bytes
        notes.append(
            Provenance(what="host.memory", source="this machine", note=f"{profile.name} has no size of its own")
        )
    elif memory is None:
        notes.append(
            Provenance(what="host.memory", source=profile.file, note="of the profile; --memory gives another size")
        )
    else:
        notes.append(_noted("host.memory", "--memory", f"{shown.size(memory)}, the one memory"))
    bandwidth, part = None, profile.host
    if part is not None and part.bandwidth_bytes_per_s is not None:
        source = f"{profile.file}: what its cores were measured to read and write"
        bandwidth = spread(part.bandwidth_bytes_per_s, "bytes/s", "table", source, low=0.8, high=1.25)
    elif profile.bandwidth_bytes_per_s is not None and profile.host_only:
        bandwidth = spread(
            profile.bandwidth_bytes_per_s * 4 // 5,
            "bytes/s",
            "guess",
            f"four fifths of the bandwidth in {profile.file}: what cores read of one or two channels",
            low=0.5,
            high=1.25,
        )
    elif profile.bandwidth_bytes_per_s is not None:
        # Measured on a Ryzen AI Max+ 395: 100-118 of 256 GB/s from the CPU cores.
        bandwidth = spread(
            profile.bandwidth_bytes_per_s // 2,
            "bytes/s",
            "guess",
            f"half of the bandwidth in {profile.file}: CPU cores alone reach 0.4 to 0.9 of it",
            low=0.8,
            high=1.8,
        )
    if part is None:
        notes.append(Provenance(what="host.cpu", source="this machine", note="not known; taken to be like this one"))
        cpu, system, arch = base.host.cpu, base.host.os, base.host.arch
    else:
        logical = part.cores_logical or base.host.cpu.cores_logical
        if part.cores_logical is None:
            notes.append(Provenance(what="host.cpu", source="this machine", note="number of cores not known; as here"))
        system, arch = part.os, part.arch
        cpu = Cpu(
            name=part.cpu,
            isa=part.isa,
            cores_physical=part.cores_physical,
            cores_logical=logical,
            cores_granted=float(logical),
        )
    return Host(
        os=system,
        arch=arch,
        cpu=cpu,
        memory=HostMemory(total_bytes=total, limit_bytes=None, available_bytes=None),
        bandwidth=bandwidth,
    )


def _nameless(device_id: str, notes: list[Provenance]) -> Device:
    """A device of which only sizes are known."""
    note = "no device is named, so it is taken to be a discrete NVIDIA one"
    notes.append(Provenance(what=device_id, source=_TAKEN, note=note))
    return Device(
        id=device_id,
        vendor="nvidia",
        name="unnamed device",
        profile=None,
        memory=DeviceMemory(total_bytes=None, usable_bytes=None, free_bytes=None),
        bandwidth=None,
        compute_capability=None,
        formats={},
        unified_memory=False,
        link=None,
        unusable=None,
    )


def _changed(
    device: Device, vram: int | None, bandwidth: int | None, memory: int | None, notes: list[Provenance]
) -> Device:
    """The device with the sizes of the options; ``memory`` is the one memory of a unified device."""
    total, reach, free = device.memory.total_bytes, device.memory.usable_bytes, device.memory.free_bytes
    if device.unified_memory and memory is not None and total != memory:
        # A probed unified device: its share moves with the size.
        reach = None if reach is None or not total else reach * memory // total
        total, free = memory, None
    if vram is not None:
        if device.unified_memory and total is not None and vram > total:
            raise AdvisorError(
                "contradictory-options",
                f"--vram {vram} is more than the one memory of {device.name}, {total} bytes.",
                hint=f"advisor recommend --memory {vram}",
            )
        total, reach, free = (total if device.unified_memory else vram), vram, None
        notes.append(_noted(f"{device.id}.memory", "--vram", shown.size(vram)))
    rate: Quantity | None = device.bandwidth
    if bandwidth is not None:
        rate = exact(bandwidth, "bytes/s", _given("--bandwidth"))
        notes.append(_noted(f"{device.id}.bandwidth", "--bandwidth", shown.bandwidth(bandwidth)))
    return msgspec.structs.replace(
        device, memory=DeviceMemory(total_bytes=total, usable_bytes=reach, free_bytes=free), bandwidth=rate
    )
