"""What every vendor's probe is given and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from advisor.facts.machine import Device, DeviceMemory, Host
from advisor.facts.words import Vendor
from advisor.probes.pci import PciDevice
from advisor.probes.sanity import Notes
from advisor.probes.source import Source


class Look(NamedTuple):
    """One look at a machine.

    ``pci``: what may compute on the PCI bus. ``host``: the host as read before. ``notes``: this probe's own.
    ``deadline_s``: for each question to a driver. ``environment``: device selections such as ``CUDA_VISIBLE_DEVICES``.
    """

    source: Source
    pci: tuple[PciDevice, ...]
    host: Host
    notes: Notes
    deadline_s: float
    environment: Mapping[str, str]

    def of(self, vendor: int) -> tuple[PciDevice, ...]:
        """The PCI devices with the maker's number ``vendor``."""
        return tuple(d for d in self.pci if d.vendor == vendor)


class VendorProbe(Protocol):
    """One vendor's devices.

    ``read`` never raises for what a driver says or does not say: a device that is there and cannot be used is returned
    with the reason in ``unusable``. Devices carry any id; they are numbered afterwards.
    """

    name: str

    def present(self, look: Look, /) -> bool:
        """Whether ``read`` is worth its time; reads files only, and few."""
        ...

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices, visible ones first."""
        ...


def unusable(vendor: Vendor, name: str, reason: str) -> Device:
    """A device that is there, and of which nothing is known but why it cannot be used."""
    return Device(
        id="gpu",
        vendor=vendor,
        name=name,
        profile=None,
        memory=DeviceMemory(total_bytes=None, usable_bytes=None, free_bytes=None),
        bandwidth=None,
        compute_capability=None,
        formats={},
        unified_memory=False,
        link=None,
        unusable=reason,
    )
