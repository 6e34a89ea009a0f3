"""Which profile a device is, told by its PCI ids and, where those are of several products, by what else is known.

Vendor and device id name a chip. What tells the products with that chip apart is, in this order: the subsystem (the
board), the revision, the size of the memory, the number of cores, and for graphics inside a processor its name. Where
several are left, nothing is guessed: the device has no profile, and only what all of them agree on.

Sources of the ids: the PCI ID Repository (pci-ids.ucw.cz), amdgpu.ids of libdrm, the tables of the Linux drivers i915
and xe, the list of supported GPUs of NVIDIA's open kernel modules.
"""

from __future__ import annotations

from typing import NamedTuple

from advisor.facts.quantity import Quantity, spread
from advisor.probes.catalog import bundled, has_memory, pci_index
from advisor.probes.pci import PciDevice
from advisor.probes.profiles import HardwareProfile


class Match(NamedTuple):
    """The profiles that a device may be, by id: none, the one that it is, or several that could not be told apart."""

    profiles: tuple[HardwareProfile, ...] = ()

    @property
    def profile(self) -> HardwareProfile | None:
        """The one profile, or ``None``."""
        return self.profiles[0] if len(self.profiles) == 1 else None

    @property
    def name(self) -> str | None:
        """``AMD Radeon RX 7900 XTX``, or the names of all that it may be."""
        return " or ".join(p.name for p in self.profiles[:4]) or None

    @property
    def formats(self) -> dict[str, str]:
        """The number formats that all have alike."""
        if not self.profiles:
            return {}
        first, *others = (p.formats for p in self.profiles)
        return {name: how for name, how in first.items() if all(o.get(name) == how for o in others)}

    @property
    def arch(self) -> str | None:
        """The architecture, where it is that of all."""
        found = {p.arch for p in self.profiles}
        return found.pop() if len(found) == 1 else None

    @property
    def unified_memory(self) -> bool | None:
        """Whether they share the host's memory, where all do or none does."""
        found = {p.unified_memory for p in self.profiles}
        return found.pop() if len(found) == 1 else None

    @property
    def memory_bytes(self) -> int | None:
        """The size of the memory chips, where it is that of all."""
        found = {p.memory_bytes for p in self.profiles}
        return found.pop() if len(found) == 1 else None

    @property
    def fp16_tflops(self) -> float | None:
        """The lowest rate of all, so that nothing is promised that one of them does not do."""
        found = [p.fp16_tflops for p in self.profiles]
        return None if not found or None in found else min(rate for rate in found if rate is not None)

    @property
    def bandwidth(self) -> Quantity | None:
        """The bandwidth; of several profiles the lowest counts and the range spans them all."""
        if self.profile is not None:
            nominal = self.profile.bandwidth
            if nominal is None or not self.profile.unified_memory or self.profile.memory_bytes is not None:
                return nominal
            # Graphics beside memory that is chosen with the machine: from half of the lanes, or the slowest memory, up.
            about = f"{self.profile.file} has it with the fastest memory, which this machine need not have"
            return spread(int(nominal.value * 0.7), "bytes/s", "guess", about, low=0.6, high=1 / 0.7)
        rates = sorted(p.bandwidth_bytes_per_s for p in self.profiles if p.bandwidth_bytes_per_s is not None)
        if not rates or len(rates) < len(self.profiles):
            return None
        source = " and ".join(p.file for p in self.profiles)
        return Quantity(value=rates[0], low=rates[0], high=rates[-1], unit="bytes/s", method="table", source=source)


def match_pci(
    device: PciDevice, *, memory_bytes: int | None = None, cores: int | None = None, cpu: str | None = None
) -> Match:
    """The bundled profiles that ``device`` may be.

    Args:
        memory_bytes: the memory that its driver reports.
        cores: compute units, Xe cores or multiprocessors, where they are known.
        cpu: the name of the processor that it may be part of.

    Raises:
        AdvisorError: ``bad-profile`` when the bundled profiles cannot be read.
    """
    entries = pci_index().get(device.key, [])
    found = tuple(bundled(i) for i in sorted({profile for profile, _ in _nearest(entries, device)}))
    if memory_bytes is not None:
        found = tuple(p for p in found if has_memory(p, memory_bytes))
    if len(found) > 1 and cores is not None:
        found = tuple(p for p in found if p.cores == cores) or found
    if len(found) > 1 and cpu is not None:
        found = tuple(p for p in found if any(part in cpu for part in p.cpus)) or found
    return Match(found)


def _nearest(entries: list[tuple[str, str]], device: PciDevice) -> list[tuple[str, str]]:
    """The entries of the board, else of the revision, else of the bare id; of an unknown revision or board all."""
    board = None if device.subsystem is None else f"/{device.subsystem[0]:04x}:{device.subsystem[1]:04x}"
    revision = None if device.revision is None else f"{device.revision:02x}"
    same_board = [e for e in entries if e[1] == board]
    same_revision = [e for e in entries if e[1].startswith("@") and revision in e[1][1:].split("+")]
    bare = [e for e in entries if not e[1]]
    if same_board or same_revision or bare:
        return same_board or same_revision or bare
    # An id of which only revisions are known, none of them this one, is a product that is not among the profiles.
    return [e for e in entries if (revision if e[1].startswith("@") else board) is None]
