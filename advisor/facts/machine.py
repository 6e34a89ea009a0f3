"""What a machine is and what it grants: the shapes of ``advisor probe``."""

from __future__ import annotations

from typing import Literal

from advisor.facts.base import Shape
from advisor.facts.quantity import Quantity
from advisor.facts.words import RuntimeName, Vendor


class Cpu(Shape, frozen=True, kw_only=True):
    """``isa`` uses the kernel's flag names (``avx2``, ``avx512_vnni``, ``amx_int8``, ``asimd``, ``sve`` ...).

    ``cores_granted`` is what this process may really use: affinity, cpuset and CPU quota together; it may be a
    fraction (a quota of 1.5 CPUs). ``cores_performance``: the fast ones, where a processor has two kinds.
    """

    name: str
    isa: tuple[str, ...]
    cores_physical: int | None
    cores_logical: int
    cores_granted: float
    cores_performance: int | None = None


class HostMemory(Shape, frozen=True, kw_only=True):
    """``limit_bytes``: the tightest limit of the process's own cgroup and its parents; ``None`` where there is none.

    ``available_bytes``: what can be taken now without swapping, within the limit; page cache does not count as used.
    """

    total_bytes: int
    limit_bytes: int | None
    available_bytes: int | None


class NumaNode(Shape, frozen=True, kw_only=True):
    """Memory and the CPUs that are near it. ``cpus`` in the kernel's list format (``0-15,32-47``); ``allowed``: this
    process may take memory of it."""

    id: int
    cpus: str
    cores_logical: int
    memory_bytes: int | None
    free_bytes: int | None = None
    allowed: bool = True


class Swap(Shape, frozen=True, kw_only=True):
    """Swap space; a total of 0 means that there is none."""

    total_bytes: int
    free_bytes: int | None


StorageKind = Literal["local", "network", "overlay", "memory", "unknown"]


class Storage(Shape, frozen=True, kw_only=True):
    """Where artifacts are kept. ``kind``: ``memory`` is a file system in memory (tmpfs), which takes what a model
    needs. ``read``: bytes a second of a sequential read past the page cache, once measured."""

    kind: StorageKind
    filesystem: str | None
    total_bytes: int | None
    free_bytes: int | None
    rotational: bool | None = None
    read: Quantity | None = None


class Host(Shape, frozen=True, kw_only=True):
    """``bandwidth`` is read bandwidth of host memory, ``None`` until measured or given.

    ``virtualization``: ``wsl1``, ``wsl2`` or ``vm``; ``container``: ``docker``, ``podman``, ``kubernetes``, ``lxc`` ...
    ``translated``: this process runs under Rosetta. ``numa``: empty where the system tells of no nodes. ``store``: the
    disk of advisor's artifacts.
    """

    os: str
    arch: str
    cpu: Cpu
    memory: HostMemory
    bandwidth: Quantity | None
    numa: tuple[NumaNode, ...] = ()
    swap: Swap | None = None
    virtualization: str | None = None
    container: str | None = None
    translated: bool = False
    store: Storage | None = None


class DeviceMemory(Shape, frozen=True, kw_only=True):
    """Three memories: all of it, what a process can get on an idle device, and what is free now."""

    total_bytes: int | None
    usable_bytes: int | None
    free_bytes: int | None


class Link(Shape, frozen=True, kw_only=True):
    """How the device hangs on the host: the widest link that both can have, and the one that is up now.

    An idle device lowers the generation of its link to save power; a low width now is a slot that gives no more.
    """

    pcie_gen: int | None = None
    pcie_width: int | None = None
    pcie_gen_now: int | None = None
    pcie_width_now: int | None = None


class NvLink(Shape, frozen=True, kw_only=True):
    """NVLinks that are up. ``bandwidth``: bytes/s each way over all of them together."""

    links: int
    bandwidth: Quantity | None = None


class Processes(Shape, frozen=True, kw_only=True):
    """Processes that use the device now, never their names. ``used_bytes``: device memory of all of them."""

    count: int
    used_bytes: int | None = None


class MigSlice(Shape, frozen=True, kw_only=True):
    """The slice of a split device (NVIDIA MIG) that this device is: its profile (``3g.40gb``) and multiprocessors."""

    profile: str | None = None
    multiprocessors: int | None = None


class Device(Shape, frozen=True, kw_only=True):
    """One accelerator. ``formats`` maps a number format to ``native``, ``weight-only`` or ``none``.

    ``unusable`` carries the reason why a present device cannot be used; ``None`` means it can. ``fp16_tflops``: dense
    FP16 tensor rate with FP32 accumulate, 10^12 operations a second, from the profile. ``arch``: the maker's name of
    the architecture (``gfx1100``, ``Ada Lovelace`` ...), as the driver has it, else from the profile. ``driver``: its
    version or name; ``cuda``: the newest CUDA that it can run. ``uuid``: what selects the device by name; a
    placeholder in recordings. ``pci``: its address on the bus as the kernel writes it. ``ecc``: error correction is on.
    ``display``: a screen hangs on it. ``processes``: who else uses it now. ``mig``: it is a slice of a device; a
    process sees one slice and nothing beside. ``apis``: what programs of this user reach it through, as far as its
    device files tell (``rocm``, ``vulkan``, ``level-zero``); ``None``: not known.
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
    cuda: str | None = None
    uuid: str | None = None
    pci: str | None = None
    ecc: bool | None = None
    display: bool | None = None
    processes: Processes | None = None
    nvlink: NvLink | None = None
    mig: MigSlice | None = None
    apis: tuple[str, ...] | None = None

    @property
    def for_screens(self) -> bool:
        """Graphics inside a processor of which there is no profile: many processors have them, no plan wants them."""
        return self.unusable is not None and self.unified_memory and self.profile is None and not self.formats


VulkanKind = Literal["discrete", "integrated", "virtual", "cpu", "other"]


class VulkanDevice(Shape, frozen=True, kw_only=True):
    """One device as Vulkan lists it. ``kind`` ``cpu`` is software (llvmpipe), on which nothing is planned.
    ``device``: the id in ``machine.devices`` of the same device, where its vendor's probe knows it too."""

    name: str
    kind: VulkanKind
    driver: str | None = None
    driver_version: str | None = None
    api_version: str | None = None
    vendor_id: int | None = None
    device_id: int | None = None
    memory_bytes: int | None = None
    device: str | None = None


class Vulkan(Shape, frozen=True, kw_only=True):
    """``drivers``: the names of the driver manifests; ``devices``: ``None`` where nothing could be asked."""

    drivers: tuple[str, ...]
    devices: tuple[VulkanDevice, ...] | None = None


class RuntimeFound(Shape, frozen=True, kw_only=True):
    """A runtime that is installed, or that advisor has installed, on the machine.

    ``backends``: what it computes with (``cpu``, ``cuda``, ``rocm``, ``vulkan``, ``metal``, ``sycl``); ``path``: its
    program, where it was found on PATH.
    """

    runtime: RuntimeName
    provider: str
    version: str | None
    backends: tuple[str, ...] = ("cpu",)
    path: str | None = None


class Prebuilt(Shape, frozen=True, kw_only=True):
    """A llama.cpp that is installed or can be installed without compiling and drives devices of the makers ``vendors``.

    ``layers_on_host``: it can keep some of the layers on this processor; without, all must be on devices.
    """

    vendors: tuple[Vendor, ...]
    layers_on_host: bool


class Provenance(Shape, frozen=True, kw_only=True):
    """Where one fact group of the machine was read, and what went wrong while reading it."""

    what: str
    source: str
    note: str | None = None


class Machine(Shape, frozen=True, kw_only=True):
    """Everything planning may know of a machine; ``named`` marks one described by hand rather than probed.

    ``buildable``: the backends for which llama.cpp can be compiled with the tools that are there; ``prebuilt``: for
    which devices there is one that needs no compiling.
    """

    host: Host
    devices: tuple[Device, ...]
    runtimes: tuple[RuntimeFound, ...]
    provenance: tuple[Provenance, ...]
    named: str | None = None
    vulkan: Vulkan | None = None
    buildable: tuple[str, ...] = ()
    prebuilt: Prebuilt | None = None
