"""The devices of a machine: a table of what planning goes by, and a line each of how it is connected and used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts import shown

from ..page import BAD, FAINT, Cell, Column, quantity_cell

if TYPE_CHECKING:
    from advisor.facts.machine import Device, Link

    from ..page import Page

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


def devices(page: Page, found: tuple[Device, ...], *, verbose: bool) -> None:
    """Write the table, and under it one line of details for each device of which there are any."""
    page.table(_COLUMNS, [_row(device) for device in found])
    details = [(d.id, words) for d in found if (words := "; ".join(detail(d, verbose=verbose)))]
    if details:
        page.blank()
        page.fields(details)


def detail(device: Device, *, verbose: bool) -> list[str]:
    """What is known of a device beside memory and speed, in words; nothing for what is not known."""
    words = []
    versions = [f"driver {device.driver}" if device.driver else "", f"CUDA {device.cuda}" if device.cuda else ""]
    words.append(", ".join(v for v in versions if v))
    words.append(_link(device.link))
    if device.nvlink is not None:
        speed = device.nvlink.bandwidth
        rate = f" with {shown.quantity(speed)} each way" if speed is not None else ""
        words.append(f"{device.nvlink.links} NVLinks{rate}")
    if device.mig is not None:
        units = f" with {device.mig.multiprocessors} multiprocessors" if device.mig.multiprocessors else ""
        words.append(f"MIG slice {device.mig.profile or ''}".rstrip() + units)
    if device.ecc is not None:
        words.append(f"ECC {'on' if device.ecc else 'off'}")
    if device.processes is not None and device.processes.count:
        count, used = device.processes.count, device.processes.used_bytes
        held = f" with {shown.size(used)}" if used is not None else ""
        words.append(f"{count} process{'' if count == 1 else 'es'}{held} on it")
    words.append("a screen is attached" if device.display else "")
    words.append(f"reached through {' '.join(device.apis)}" if device.apis else "")
    if verbose:
        words.append(f"at {device.pci}" if device.pci else "")
        words.append(device.uuid or "")
    return [word for word in words if word]


def _link(link: Link | None) -> str:
    if link is None or link.pcie_gen is None or link.pcie_width is None:
        return ""
    now = ""
    # A low generation now is how an idle device saves power; a low width is the slot.
    if link.pcie_width_now is not None and link.pcie_width_now < link.pcie_width:
        now = f", only x{link.pcie_width_now} now"
    return f"PCIe {link.pcie_gen}.0 x{link.pcie_width}{now}"


def _row(device: Device) -> list[str | Cell]:
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
