"""Bounds outside of which a reading is taken for a fault of what reported it, and not planned on."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec

from advisor.facts.machine import (
    Device,
    DeviceMemory,
    Host,
    Link,
    Machine,
    NumaNode,
    NvLink,
    Processes,
    Provenance,
    Storage,
    Swap,
)
from advisor.facts.quantity import Quantity


class Bound(NamedTuple):
    """An inclusive range."""

    low: float
    high: float


# Wide enough for any machine that can be bought; narrow enough for 2^63, negative numbers and "0 MiB".
BOUNDS: Final[dict[str, Bound]] = {
    "memory": Bound(1 << 20, 1 << 50),
    "free memory": Bound(0, 1 << 50),
    "bandwidth": Bound(10**8, 10**14),
    "disk speed": Bound(10**4, 10**12),
    "cores": Bound(1, 1 << 16),
    "cpu quota": Bound(0.01, 1 << 16),
    "compute capability": Bound(1.0, 30.0),
    "pcie generation": Bound(1, 9),
    "pcie width": Bound(1, 32),
    "links": Bound(1, 64),
    "processes": Bound(0, 1 << 22),
    "tflops": Bound(0.01, 10**6),
}


class Notes:
    """Collects where each fact came from and what was wrong with it; names of folders never go in."""

    def __init__(self, entries: tuple[Provenance, ...] = ()) -> None:
        self._entries = list(entries)

    def add(self, what: str, source: str, note: str | None = None) -> None:
        """Note that ``what`` was read from ``source``."""
        self._entries.append(Provenance(what=what, source=source, note=note))

    def extend(self, more: Notes) -> None:
        """Take over the notes of another part."""
        self._entries += more.entries

    @property
    def entries(self) -> tuple[Provenance, ...]:
        """All notes, in the order in which they were made."""
        return tuple(self._entries)

    def sane_int(self, value: object, kind: str, what: str, source: str) -> int | None:
        """``value`` if it is a whole number within the bounds of ``kind``; else ``None``, and a note of why."""
        number = self.sane(value, kind, what, source)
        return None if number is None else int(number)

    def sane(self, value: object, kind: str, what: str, source: str) -> float | None:
        """``value`` if it is a number within the bounds of ``kind``; else ``None``, and a note of why."""
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not _within(value, BOUNDS[kind]):
            self.add(what, source, f"invalid: {str(value)[:40]!r} is no {kind}; taken as unknown")
            return None
        return value


def within(value: float | None, kind: str) -> bool:
    """Whether ``value`` is known and within the bounds of ``kind``."""
    return value is not None and _within(value, BOUNDS[kind])


def _within(value: float, bound: Bound) -> bool:
    return math.isfinite(value) and bound.low <= value <= bound.high


def sane_machine(machine: Machine, notes: Notes) -> Machine:
    """A machine from a file with its absurd values unknown, and a note for each.

    Raises:
        ValueError: a value that nothing can be planned without is absurd: the size of the memory, the cores.
    """
    host = _sane_host(machine.host, notes)
    ids = [d.id for d in machine.devices]
    if len(set(ids)) != len(ids):
        raise ValueError("two devices have one id")
    devices = tuple(_sane_device(d, notes) for d in machine.devices)
    return msgspec.structs.replace(machine, host=host, devices=devices, provenance=notes.entries)


def _sane_host(host: Host, notes: Notes) -> Host:
    memory, cpu = host.memory, host.cpu
    if not within(memory.total_bytes, "memory"):
        raise ValueError(f"host.memory.total_bytes: {memory.total_bytes} is out of bounds")
    if not within(cpu.cores_logical, "cores"):
        raise ValueError(f"host.cpu.cores_logical: {cpu.cores_logical} is out of bounds")
    granted = notes.sane(cpu.cores_granted, "cpu quota", "cpu.cores_granted", "file")
    return msgspec.structs.replace(
        host,
        cpu=msgspec.structs.replace(
            cpu,
            cores_physical=notes.sane_int(cpu.cores_physical, "cores", "cpu.cores_physical", "file"),
            cores_granted=float(cpu.cores_logical) if granted is None else granted,
        ),
        memory=msgspec.structs.replace(
            memory,
            limit_bytes=notes.sane_int(memory.limit_bytes, "memory", "memory.limit_bytes", "file"),
            available_bytes=notes.sane_int(memory.available_bytes, "free memory", "memory.available_bytes", "file"),
        ),
        bandwidth=_sane_rate(host.bandwidth, "host.bandwidth", notes),
        store=sane_storage(host.store, notes),
        swap=_sane_swap(host.swap, notes),
        numa=tuple(_sane_node(n, notes) for n in host.numa),
    )


def sane_storage(store: Storage | None, notes: Notes) -> Storage | None:
    """A disk from a file with its absurd values unknown."""
    if store is None:
        return None
    return msgspec.structs.replace(
        store,
        total_bytes=notes.sane_int(store.total_bytes, "memory", "host.store.total_bytes", "file"),
        free_bytes=notes.sane_int(store.free_bytes, "free memory", "host.store.free_bytes", "file"),
        read=_sane_rate(store.read, "host.store.read", notes, kind="disk speed"),
    )


def _sane_swap(swap: Swap | None, notes: Notes) -> Swap | None:
    if swap is None or notes.sane(swap.total_bytes, "free memory", "host.swap", "file") is None:
        return None
    free = notes.sane_int(swap.free_bytes, "free memory", "host.swap", "file")
    return msgspec.structs.replace(swap, free_bytes=free)


def _sane_node(node: NumaNode, notes: Notes) -> NumaNode:
    what = f"host.numa[{node.id}]"
    return msgspec.structs.replace(
        node,
        memory_bytes=notes.sane_int(node.memory_bytes, "free memory", what, "file"),
        free_bytes=notes.sane_int(node.free_bytes, "free memory", what, "file"),
    )


def _sane_device(device: Device, notes: Notes) -> Device:
    at, memory = device.id, device.memory
    return msgspec.structs.replace(
        device,
        memory=DeviceMemory(
            total_bytes=notes.sane_int(memory.total_bytes, "memory", f"{at}.memory.total_bytes", "file"),
            usable_bytes=notes.sane_int(memory.usable_bytes, "memory", f"{at}.memory.usable_bytes", "file"),
            free_bytes=notes.sane_int(memory.free_bytes, "free memory", f"{at}.memory.free_bytes", "file"),
        ),
        bandwidth=_sane_rate(device.bandwidth, f"{at}.bandwidth", notes),
        compute_capability=notes.sane(
            device.compute_capability, "compute capability", f"{at}.compute_capability", "file"
        ),
        fp16_tflops=notes.sane(device.fp16_tflops, "tflops", f"{at}.fp16_tflops", "file"),
        link=_sane_link(device.link, f"{at}.link", notes),
        processes=_sane_processes(device.processes, f"{at}.processes", notes),
        nvlink=_sane_nvlink(device.nvlink, f"{at}.nvlink", notes),
    )


def _sane_link(link: Link | None, what: str, notes: Notes) -> Link | None:
    if link is None:
        return None
    return Link(
        pcie_gen=notes.sane_int(link.pcie_gen, "pcie generation", what, "file"),
        pcie_width=notes.sane_int(link.pcie_width, "pcie width", what, "file"),
        pcie_gen_now=notes.sane_int(link.pcie_gen_now, "pcie generation", what, "file"),
        pcie_width_now=notes.sane_int(link.pcie_width_now, "pcie width", what, "file"),
    )


def _sane_processes(processes: Processes | None, what: str, notes: Notes) -> Processes | None:
    if processes is None or notes.sane_int(processes.count, "processes", what, "file") is None:
        return None
    used = notes.sane_int(processes.used_bytes, "free memory", what, "file")
    return msgspec.structs.replace(processes, used_bytes=used)


def _sane_nvlink(nvlink: NvLink | None, what: str, notes: Notes) -> NvLink | None:
    if nvlink is None or notes.sane_int(nvlink.links, "links", what, "file") is None:
        return None
    return msgspec.structs.replace(nvlink, bandwidth=_sane_rate(nvlink.bandwidth, what, notes))


def _sane_rate(rate: Quantity | None, what: str, notes: Notes, *, kind: str = "bandwidth") -> Quantity | None:
    if rate is None:
        return None
    known = [notes.sane(value, kind, what, "file") for value in (rate.value, rate.low, rate.high)]
    if rate.unit != "bytes/s" or None in known or not rate.low <= rate.value <= rate.high:
        notes.add(what, "file", "invalid: not a bandwidth in bytes/s with low <= value <= high; taken as unknown")
        return None
    return rate
