"""Apple silicon: the chip's name gives the device; its GPU has the host's memory."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from advisor.facts.machine import Device, DeviceMemory, Host
from advisor.facts.quantity import Quantity
from advisor.probes.sanity import Notes
from advisor.probes.vendors.base import Look


class Apple:
    """The GPU of an Apple chip."""

    name = "apple"

    def present(self, look: Look, /) -> bool:
        """A Mac."""
        return look.host.os == "darwin"

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """At most one device, with the host's memory."""
        return _read(look.host, look.notes)


PROBE: Final = Apple()


def _read(host: Host, notes: Notes) -> tuple[Device, ...]:
    """The GPU of an Apple chip, from the CPU's brand; none on any other machine.

    The brand does not say how many GPU cores there are. Where the profiles of one chip differ by that, the bandwidth
    spans all of them and the lowest is planned with.
    """
    match = re.match(r"Apple (M\d+(?: (?:Pro|Max|Ultra))?)\b", host.cpu.name)
    if host.os != "darwin" or match is None:
        return ()
    # Imported here: the catalogue is of no use on any other machine.
    from advisor.probes.catalog import find, names
    from advisor.probes.named import device_of

    chip = match[1].lower().replace(" ", "-")
    known = [find(i) for i in names() if re.fullmatch(rf"{chip}(-\d+)?", i)]
    notes.add("devices.apple", "CPU brand", "the number of GPU cores is not known" if len(known) > 1 else None)
    if not known:
        notes.add("devices.apple", "profiles/hardware", f"no profile of {host.cpu.name}; bandwidth is unknown")
        return (
            Device(
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
            ),
        )
    known.sort(key=lambda p: p.bandwidth_bytes_per_s or 0)
    device = device_of(known[0], "gpu", total=host.memory.total_bytes)
    rates = [p.bandwidth_bytes_per_s for p in known if p.bandwidth_bytes_per_s]
    if len(known) > 1 and rates:
        rate = Quantity(
            value=rates[0],
            low=rates[0],
            high=rates[-1],
            unit="bytes/s",
            method="table",
            source=" and ".join(p.file for p in known),
        )
        device = msgspec.structs.replace(device, bandwidth=rate, profile=None, name=host.cpu.name)
    return (device,)
