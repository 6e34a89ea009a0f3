"""A machine: host, memory, devices, runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import Cell, quantity_cell
from .machine_devices import devices

if TYPE_CHECKING:
    from advisor.facts.bench import MeasuredEngine
    from advisor.facts.machine import Host, Machine

    from ..page import Page

_ISA_OF_INTEREST = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def machine(page: Page, found: Machine, measured: tuple[MeasuredEngine, ...] = (), *, verbose: bool = False) -> None:
    """Write the whole machine, and the engines whose speed was measured on it."""
    page.title(f"Machine{f' {found.named}' if found.named else ''}")
    page.fields(_host(found.host, verbose=verbose))
    page.title("Devices")
    if found.devices:
        devices(page, found.devices, verbose=verbose)
    else:
        page.text("No accelerator; models run on the CPU.")
    if found.vulkan is not None:
        seen = found.vulkan.devices
        named = "devices not known" if seen is None else ", ".join(f"{d.name} ({d.kind})" for d in seen) or "no device"
        page.fields((("vulkan", Cell(", ".join(found.vulkan.drivers), "", named)),))
    if found.runtimes:
        page.title("Runtimes")
        page.fields((r.runtime, Cell(r.version or shown.UNKNOWN, "", r.provider)) for r in found.runtimes)
    if measured:
        page.title("Measured here")
        page.fields((m.runtime, Cell(f"{m.engine}: {_measured(m)}", "", shown.moment(m.measured_at))) for m in measured)
        if verbose:
            page.bullets(tuple(dict.fromkeys(f"kept in {m.file}" for m in measured)))
    if verbose and found.provenance:
        page.title("Read from")
        page.fields((p.what, Cell(p.source, "", p.note or "")) for p in found.provenance)


def _measured(found: MeasuredEngine) -> str:
    formats = ", ".join(found.formats)
    return f"{shown.counted(found.speeds, 'speed')} of {', '.join(found.models)}" + (
        f" in {formats}" if formats else ""
    )


def _host(host: Host, *, verbose: bool) -> list[tuple[str, str | Cell]]:
    cpu, memory = host.cpu, host.memory
    isa = cpu.isa if verbose else tuple(flag for flag in cpu.isa if flag in _ISA_OF_INTEREST)
    physical = f"{cpu.cores_physical} physical, " if cpu.cores_physical is not None else ""
    limit = f"limited to {shown.size(memory.limit_bytes)}" if memory.limit_bytes is not None else ""
    around = ", ".join(word for word in (host.container, host.virtualization) if word)
    rows: list[tuple[str, str | Cell]] = [
        ("system", Cell(f"{host.os} {host.arch}", "", around)),
        ("cpu", cpu.name),
        ("cores", f"{shown.plain(cpu.cores_granted)} granted ({physical}{cpu.cores_logical} logical)"),
        ("instructions", " ".join(isa) or shown.UNKNOWN),
        ("memory", Cell(shown.size(memory.total_bytes), "", limit)),
        ("available", shown.size(memory.available_bytes)),
        ("bandwidth", quantity_cell(host.bandwidth)),
    ]
    if len(host.numa) > 1:
        nodes = (f"{n.id}: {shown.size(n.memory_bytes)}{'' if n.allowed else ' not allowed'}" for n in host.numa)
        rows.append(("memory nodes", Cell(str(len(host.numa)), "", ", ".join(nodes))))
    if host.swap is not None and (host.swap.total_bytes or verbose):
        rows.append(("swap", Cell(shown.size(host.swap.total_bytes), "", f"{shown.size(host.swap.free_bytes)} free")))
    if host.store is not None:
        store = host.store
        kind = f"{store.kind}{f' {store.filesystem}' if store.filesystem else ''}"
        read = f", reads {shown.quantity(store.read)}" if store.read is not None else ""
        rows.append(("disk", Cell(f"{shown.size(store.free_bytes)} free", "", kind + read)))
    return rows


def bare(found: Machine) -> tuple[str, ...]:
    """One line a device, for ``--quiet``: id and profile or name."""
    return tuple(f"{d.id} {d.profile or d.name}" for d in found.devices) or ("cpu",)
