"""What a machine is and what it grants: the shapes of ``advisor probe``."""

from __future__ import annotations

from advisor.facts.base import Shape
from advisor.facts.quantity import Quantity
from advisor.facts.words import RuntimeName, Vendor


class Cpu(Shape, frozen=True, kw_only=True):
    """``isa`` uses the kernel's flag names (``avx2``, ``avx512_vnni``, ``amx_int8``, ``asimd``, ``sve`` ...).

    ``cores_granted`` is what this process may really use: affinity, cpuset and CPU quota together; it may be a
    fraction (a quota of 1.5 CPUs).
    """

    name: str
    isa: tuple[str, ...]
    cores_physical: int | None
    cores_logical: int
    cores_granted: float


class HostMemory(Shape, frozen=True, kw_only=True):
    """``limit_bytes``: the tightest limit of the process's own cgroup and its parents; ``None`` where there is none.

    ``available_bytes``: what can be taken now without swapping, within the limit; page cache does not count as used.
    """

    total_bytes: int
    limit_bytes: int | None
    available_bytes: int | None


class Host(Shape, frozen=True, kw_only=True):
    """``bandwidth`` is read bandwidth of host memory, ``None`` until measured or given."""

    os: str
    arch: str
    cpu: Cpu
    memory: HostMemory
    bandwidth: Quantity | None


class DeviceMemory(Shape, frozen=True, kw_only=True):
    """Three memories: all of it, what a process can get on an idle device, and what is free now."""

    total_bytes: int | None
    usable_bytes: int | None
    free_bytes: int | None


class Link(Shape, frozen=True, kw_only=True):
    """How the device hangs on the host."""

    pcie_gen: int | None = None
    pcie_width: int | None = None


class Device(Shape, frozen=True, kw_only=True):
    """One accelerator. ``formats`` maps a number format to ``native``, ``weight-only`` or ``none``.

    ``unusable`` carries the reason why a present device cannot be used; ``None`` means it can. ``fp16_tflops``: dense
    FP16 tensor rate with FP32 accumulate, 10^12 operations a second, from the profile. ``arch``: the maker's name of
    the architecture (``gfx1100``, ``Ada Lovelace`` ...), from the profile. ``driver``: version of the driver.
    """

    id: str
    vendor: Vendor
    name: str
    profile: str | None
    memory: DeviceMemory
    bandwidth: Quantity | None
    compute_capability: float | None
    formats: dict[str, str]
    unified_memory: bool
    link: Link | None
    unusable: str | None
    fp16_tflops: float | None = None
    arch: str | None = None
    driver: str | None = None


class RuntimeFound(Shape, frozen=True, kw_only=True):
    """A runtime that is installed, or that advisor has installed, on the machine."""

    runtime: RuntimeName
    provider: str
    version: str | None


class Provenance(Shape, frozen=True, kw_only=True):
    """Where one fact group of the machine was read, and what went wrong while reading it."""

    what: str
    source: str
    note: str | None = None


class Machine(Shape, frozen=True, kw_only=True):
    """Everything planning may know of a machine; ``named`` marks one described by hand rather than probed."""

    host: Host
    devices: tuple[Device, ...]
    runtimes: tuple[RuntimeFound, ...]
    provenance: tuple[Provenance, ...]
    named: str | None = None
