"""A machine: host, memory, devices, runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, FAINT, Cell, Column, quantity_cell

if TYPE_CHECKING:
    from advisor.facts.machine import Device, Host, Machine

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
_COLUMNS = (
    Column("id"),
    Column("name"),
    Column("memory", True),
    Column("usable", True),
    Column("free", True),
    Column("bandwidth", True),
    Column("formats"),
    Column("state"),
)


def machine(page: Page, found: Machine, *, verbose: bool = False) -> None:
    """Write the whole machine."""
    page.title(f"Machine{f' {found.named}' if found.named else ''}")
    page.fields(_host(found.host, verbose=verbose))
    page.title("Devices")
    if found.devices:
        page.table(
            _COLUMNS,
            [_device(device) for device in found.devices],
        )
    else:
        page.text("No accelerator; models run on the CPU.")
    if found.runtimes:
        page.title("Runtimes")
        page.fields((r.runtime, Cell(r.version or shown.UNKNOWN, "", r.provider)) for r in found.runtimes)
    if verbose and found.provenance:
        page.title("Read from")
        page.fields((p.what, Cell(p.source, "", p.note or "")) for p in found.provenance)


def _host(host: Host, *, verbose: bool) -> list[tuple[str, str | Cell]]:
    cpu, memory = host.cpu, host.memory
    isa = cpu.isa if verbose else tuple(flag for flag in cpu.isa if flag in _ISA_OF_INTEREST)
    physical = f"{cpu.cores_physical} physical, " if cpu.cores_physical is not None else ""
    limit = f"limited to {shown.size(memory.limit_bytes)}" if memory.limit_bytes is not None else ""
    return [
        ("system", f"{host.os} {host.arch}"),
        ("cpu", cpu.name),
        ("cores", f"{shown.plain(cpu.cores_granted)} granted ({physical}{cpu.cores_logical} logical)"),
        ("instructions", " ".join(isa) or shown.UNKNOWN),
        ("memory", Cell(shown.size(memory.total_bytes), "", limit)),
        ("available", shown.size(memory.available_bytes)),
        ("bandwidth", quantity_cell(host.bandwidth)),
    ]


def _device(device: Device) -> list[str | Cell]:
    memory = device.memory
    native = [name for name, how in device.formats.items() if how == "native"]
    state = Cell(device.unusable, BAD) if device.unusable else Cell("usable")
    return [
        device.id,
        Cell(device.name, "", device.profile or ""),
        shown.size(memory.total_bytes),
        shown.size(memory.usable_bytes),
        shown.size(memory.free_bytes),
        quantity_cell(device.bandwidth),
        Cell(" ".join(native), FAINT),
        state,
    ]


def bare(found: Machine) -> tuple[str, ...]:
    """One line a device, for ``--quiet``: id and profile or name."""
    return tuple(f"{d.id} {d.profile or d.name}" for d in found.devices) or ("cpu",)
