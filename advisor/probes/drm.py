"""What the kernel says of a graphics device of any maker: its driver, its files and who may open them, its link."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from advisor.facts.machine import Link
from advisor.facts.text import clean
from advisor.probes.pci import FOLDER, PciDevice
from advisor.probes.sanity import within
from advisor.probes.source import Source
from advisor.probes.vendors.base import Look

# Drivers that hold a device for a virtual machine.
_SET_ASIDE: Final = ("vfio-pci", "pci-stub", "xen-pciback")
# Transfers a second on a lane by generation of PCI Express.
_GENERATIONS: Final[dict[float, int]] = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
_SPEED: Final = re.compile(r"(\d{1,3}(?:\.\d)?)\s?GT/s", re.ASCII)
_LEVEL: Final = re.compile(r"^\s*\d+:\s*(\d{1,3}(?:\.\d)?)GT/s,\s*x(\d{1,2})\b(.*)$", re.ASCII | re.MULTILINE)


class Nodes(NamedTuple):
    """Names in ``/dev/dri``; a device that only shows pictures has no ``render`` node."""

    card: str | None
    render: str | None


class Access(NamedTuple):
    """Whether this process may open a device file, ``None`` where that is not known, and the group that may."""

    open: bool | None
    group: str | None = None


def nodes(source: Source, device: PciDevice) -> Nodes:
    """The device's files, as its driver made them."""
    found = source.names(f"{FOLDER}/{device.address}/drm") or ()
    card = next((n for n in found if re.fullmatch(r"card\d{1,3}", n, re.ASCII)), None)
    return Nodes(card, next((n for n in found if re.fullmatch(r"renderD\d{1,3}", n, re.ASCII)), None))


def driver(source: Source, device: PciDevice) -> str | None:
    """The name of the kernel driver that holds the device."""
    found = source.link(f"{FOLDER}/{device.address}/driver")
    return clean(found, 40) if found else None


def not_driven(held: str | None, wanted: tuple[str, ...]) -> str | None:
    """The reason why a device that ``held`` holds cannot compute; ``None`` where one of ``wanted`` does."""
    if held in wanted:
        return None
    needed = " or ".join(wanted)
    if held is None:
        return f"no driver holds it; the kernel driver {needed} is needed"
    if held in _SET_ASIDE:
        return f"it is set aside for a virtual machine ({held})"
    return f"the kernel driver {held} holds it, which cannot compute; {needed} is needed"


def access(look: Look, path: str) -> Access:
    """Who may open the device file at ``path``."""
    files = look.source.ask("device-files", look.deadline_s).get("files")
    if not isinstance(files, dict):
        return Access(None)
    entry: Any = files.get(path)
    if not isinstance(entry, dict):
        return Access(False)
    group = entry.get("group")
    return Access(bool(entry.get("open")), clean(group, 40) if isinstance(group, str) else None)


def join_group(found: Access) -> str:
    """The command that lets this user in; empty where the file's group is not one that users join."""
    return f": sudo usermod -aG {found.group} $USER, then log in again" if found.group else ""


def link(source: Source, device: PciDevice) -> Link | None:
    """The device's PCI Express link, the widest and the one that is up now."""
    at = f"{FOLDER}/{device.address}"
    gen, width = _speed(source.text(f"{at}/max_link_speed")), _width(source.text(f"{at}/max_link_width"))
    now = _speed(source.text(f"{at}/current_link_speed")), _width(source.text(f"{at}/current_link_width"))
    return Link(pcie_gen=gen, pcie_width=width, pcie_gen_now=now[0], pcie_width_now=now[1]) if gen and width else None


def levels(text: str | None) -> Link | None:
    """The link as ``pp_dpm_pcie`` of amdgpu has it: a level a line (``1: 16.0GT/s, x16 619Mhz *``), a star on the one
    that is up. Unlike the link of the device it is that of the slot, past the switch that is on the card itself."""
    found = [(_generation(m[1]), _width(m[2]), "*" in m[3]) for m in _LEVEL.finditer((text or "")[:2000])]
    known = [(gen, width, now) for gen, width, now in found if gen is not None and width is not None]
    if not known:
        return None
    gen, width, _ = max(known)
    now = next(((g, w) for g, w, star in known if star), (None, None))
    return Link(pcie_gen=gen, pcie_width=width, pcie_gen_now=now[0], pcie_width_now=now[1])


def _speed(text: str | None) -> int | None:
    match = _SPEED.search((text or "")[:100])
    return _generation(match[1]) if match else None


def _generation(transfers: str) -> int | None:
    return _GENERATIONS.get(float(transfers))


def _width(text: str | None) -> int | None:
    word = (text or "").strip()
    lanes = int(word) if re.fullmatch(r"\d{1,2}", word, re.ASCII) else None
    return lanes if within(lanes, "pcie width") else None
