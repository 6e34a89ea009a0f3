"""One NVIDIA device, or a slice of one, from what the driver says of it: every figure bounded, unknown where it is."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from advisor.facts.machine import Device, DeviceMemory, HostMemory, Link, MigSlice, NvLink, Processes
from advisor.facts.quantity import Quantity, exact
from advisor.facts.text import clean
from advisor.probes.profiles import HardwareProfile
from advisor.probes.sanity import Notes, within
from advisor.probes.vendors.nvidia_absent import pci_key
from advisor.probes.vendors.nvidia_select import Entry

# Bytes/s of one link each way, by nvmlNvLinkVersion (nvml.h): 1.0; 2.0, 2.2; 3.0; 3.1, the narrower one of GA102; 4.0;
# 5.0. Source: the NVLink figures of NVIDIA's white papers on P100, V100, A100, GA102, H100 and Blackwell.
_NVLINK: Final[dict[int, float]] = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 5: 14.0625e9, 6: 25e9, 7: 50e9}
# FP32 units of a multiprocessor by compute capability. Source: CUDA Programming Guide, "Compute Capabilities".
_UNITS: Final[dict[float, int]] = {8.0: 64, 9.0: 128, 10.0: 128, 10.3: 128, 12.0: 128}
# A split device hands out its memory, and with it the bandwidth, in eighths. Source: NVIDIA MIG User Guide.
_PARTS: Final = 8
_VGPU: Final = 2  # nvml.h, nvmlGpuVirtualizationMode_t
_PROHIBITED, _EXCLUSIVE = 2, 3  # nvml.h, nvmlComputeMode_t


class Driver(NamedTuple):
    """``source``: how the driver was asked (``NVML``, ``nvidia-smi``); versions of driver and CUDA where known."""

    source: str
    version: str | None
    cuda: str | None


def device(
    entry: Entry, host: HostMemory, driver: Driver, notes: Notes, *, profile_id: str | None = None, shared: bool = False
) -> Device:
    """The device of one entry.

    Args:
        host: the host's memory, which a device without its own takes part in.
        driver: what was asked.
        notes: where what was read from, and what was wrong with it.
        profile_id: the profile, where something else than the driver's name for the device tells it.
        shared: it has the host's memory, also where there is no profile that says so.
    """
    raw, whole = entry.raw, entry.parent or entry.raw
    name = clean(raw["name"], 80).strip() if isinstance(raw.get("name"), str) else ""
    name = name or f"{_name(whole)}{' MIG slice' if entry.parent is not None else ''}"
    what = f"{name} ({entry.number})"
    read = _Reader(what, driver.source, notes)
    total, usable, free = read.memory(raw.get("memory"))
    whole_total = _Reader(what, driver.source, Notes()).memory(whole.get("memory"))[0]
    virtual = whole.get("virtualization") == _VGPU
    profile = None if virtual else _profile(whole, whole_total, profile_id)
    unified = shared or (profile is not None and profile.unified_memory)
    if unified:
        total, usable, free = _shared(total, free, host, what, notes)
    if entry.reason is None:
        _missing(what, driver.source, notes, profile=profile, total=total, virtual=virtual)
    capability = notes.sane(_capability(whole.get("compute_capability")), "compute capability", what, driver.source)
    if capability is None and profile is not None:
        capability = profile.compute_capability
    multiprocessors = read.number(raw.get("multiprocessors"), "cores") if entry.parent is not None else None
    bandwidth = profile.bandwidth if profile else None if virtual else _nominal(whole)
    flops = profile.fp16_tflops if profile else None
    if entry.parent is not None:
        bandwidth = _share(bandwidth, total, whole_total)
        flops = _part(flops, multiprocessors, whole.get("cores"), capability)
    processes = _processes(read, raw.get("processes"))
    uuid = entry.uuid or None
    if uuid and not re.fullmatch(r"[A-Za-z0-9/-]{1,80}", uuid):
        uuid = None
    return Device(
        id="gpu",
        vendor="nvidia",
        name=name,
        profile=profile.id if profile else None,
        memory=DeviceMemory(total_bytes=total, usable_bytes=usable, free_bytes=free),
        bandwidth=bandwidth,
        compute_capability=capability,
        formats=dict(profile.formats) if profile else {},
        unified_memory=unified,
        link=_link(read, whole),
        unusable=entry.reason or _refused(whole.get("compute_mode"), processes),
        fp16_tflops=flops,
        arch=profile.arch if profile else None,
        driver=driver.version,
        cuda=driver.cuda,
        uuid=uuid,
        pci=pci_key(whole.get("pci")),
        ecc=_switch(_first(whole.get("ecc"))),
        display=_switch(whole.get("display")),
        processes=processes,
        # Slices cannot reach other devices directly (MIG User Guide, "Application Considerations").
        nvlink=_nvlink(whole.get("nvlink")) if entry.parent is None else None,
        mig=_slice(name, multiprocessors) if entry.parent is not None else None,
    )


class _Reader(NamedTuple):
    """Takes numbers within bounds, and notes those that are not."""

    what: str
    source: str
    notes: Notes

    def number(self, value: Any, kind: str) -> int | None:
        # What the driver does not answer is an error object; it is as unknown as nothing.
        return None if isinstance(value, dict) else self.notes.sane_int(value, kind, self.what, self.source)

    def memory(self, raw: Any) -> tuple[int | None, int | None, int | None]:
        """Total, usable on an idle device, and free bytes; ``None`` where the driver does not say or is wrong."""
        if not isinstance(raw, dict) or "error" in raw:
            return None, None, None
        what, source, notes = self.what, self.source, self.notes
        total = notes.sane_int(raw.get("total"), "memory", f"{what} memory", source)
        free = notes.sane_int(raw.get("free"), "free memory", f"{what} free memory", source)
        kept = notes.sane_int(raw.get("reserved"), "free memory", f"{what} reserved memory", source)
        if total is None:
            return None, None, None
        if free is not None and free > total:
            notes.add(f"{what} free memory", source, f"invalid: {free} of {total} bytes; taken as unknown")
            free = None
        usable = total - kept if kept is not None and within(total - kept, "memory") else None
        return total, usable, free


def _name(raw: dict[str, Any]) -> str:
    return (clean(raw["name"], 80).strip() if isinstance(raw.get("name"), str) else "") or "NVIDIA device"


def _profile(raw: dict[str, Any], total: int | None, profile_id: str | None) -> HardwareProfile | None:
    # Imported here: the catalogue is of no use on a machine without a device.
    from advisor.errors import AdvisorError
    from advisor.probes.catalog import find, match_driver_name

    try:
        if profile_id is not None:
            return find(profile_id)
        return match_driver_name(raw["name"], total) if isinstance(raw.get("name"), str) else None
    except AdvisorError:
        return None


def _shared(
    total: int | None, free: int | None, host: HostMemory, what: str, notes: Notes
) -> tuple[int, int, int | None]:
    """The memory of a device that has the host's: what the driver says counts as far as the host grants it."""
    granted = min(host.total_bytes, host.limit_bytes or host.total_bytes)
    if total is None:
        notes.add(what, "/proc/meminfo", "the driver reports no memory; it shares the host's")
    known = [f for f in (free, host.available_bytes) if f is not None]
    size = min(granted, total or granted)
    return size, size, min(known) if known else None


def _missing(
    what: str, source: str, notes: Notes, *, profile: HardwareProfile | None, total: int | None, virtual: bool
) -> None:
    if virtual:
        notes.add(what, source, "a virtual GPU: the device is shared with other machines; its speed is unknown")
    elif profile is None:
        notes.add(what, "profiles/hardware", "no profile of that name and size; formats are unknown")
    if total is None:
        notes.add(what, source, "memory is not reported; unknown")


def _capability(pair: Any) -> float | None:
    """Major and minor number as one: ``[8, 9]`` is 8.9."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(v) is int and 0 <= v < 100 for v in pair):
        return None
    return float(round(pair[0] + pair[1] / 10, 1))


def _nominal(raw: dict[str, Any]) -> Quantity | None:
    """Bandwidth of a device without a profile: memory clock x 2 transfers a clock x width of the bus.

    Source: the CUDA sample ``deviceQuery`` and the NVIDIA article on effective bandwidth. It gives the data sheet's
    figure for GDDR5 to GDDR7 and HBM: RTX 3090 9751 MHz x 2 x 384 bits = 936 GB/s, A100 1215 MHz x 2 x 5120 bits =
    1555 GB/s.
    """
    clock, width = raw.get("memory_clock_mhz"), raw.get("bus_width")
    if type(clock) is not int or type(width) is not int:
        return None
    rate = clock * 10**6 * 2 * width // 8
    return (
        exact(rate, "bytes/s", "memory clock x 2 x bus width, NVML", "formula") if within(rate, "bandwidth") else None
    )


def _share(whole: Quantity | None, part: int | None, total: int | None) -> Quantity | None:
    """A slice has the eighths of the bandwidth that it has of the memory."""
    if whole is None or part is None or total is None or part > total:
        return None
    eighths = max(1, round(_PARTS * part / total))
    return exact(int(whole.value * eighths / _PARTS), "bytes/s", f"{eighths}/{_PARTS} of {whole.source}", "formula")


def _part(tflops: float | None, multiprocessors: int | None, units: Any, capability: float | None) -> float | None:
    """A slice has the share of the tensor rate that it has of the multiprocessors; ``units``: FP32 units of all."""
    each = _UNITS.get(capability) if capability is not None else None
    if tflops is None or multiprocessors is None or each is None or type(units) is not int or units < each:
        return None
    return round(tflops * min(1.0, multiprocessors * each / units), 2)


def _link(read: _Reader, raw: dict[str, Any]) -> Link | None:
    gen, gen_now = (read.number(raw.get(key), "pcie generation") for key in ("pcie_gen", "pcie_gen_now"))
    width, width_now = (read.number(raw.get(key), "pcie width") for key in ("pcie_width", "pcie_width_now"))
    if not (gen or width or gen_now or width_now):
        return None
    return Link(pcie_gen=gen, pcie_width=width, pcie_gen_now=gen_now, pcie_width_now=width_now)


def _nvlink(raw: Any) -> NvLink | None:
    """The speed is the driver's own figure, else that of the version."""
    if not isinstance(raw, dict) or type(raw.get("active")) is not int or not within(raw["active"], "links"):
        return None
    links, speed, version = raw["active"], raw.get("mbps"), raw.get("version")
    if type(speed) is int and within(speed * 10**6, "bandwidth"):
        return NvLink(links=links, bandwidth=exact(links * speed * 10**6, "bytes/s", "NVML"))
    nominal = _NVLINK.get(version) if type(version) is int else None
    if nominal is None:
        return NvLink(links=links)
    return NvLink(links=links, bandwidth=exact(int(links * nominal), "bytes/s", "NVLink by version", "table"))


def _processes(read: _Reader, raw: Any) -> Processes | None:
    count = read.number(raw.get("count"), "processes") if isinstance(raw, dict) else None
    if count is None:
        return None
    return Processes(count=count, used_bytes=read.number(raw.get("used"), "free memory") if count else 0)


def _refused(mode: Any, processes: Processes | None) -> str | None:
    """The reason where the device's compute mode keeps this process out."""
    if mode == _PROHIBITED:
        return "its compute mode prohibits computing; nvidia-smi -c DEFAULT allows it"
    if mode == _EXCLUSIVE and processes is not None and processes.count:
        return "its compute mode is exclusive, and another process has it"
    return None


def _slice(name: str, multiprocessors: int | None) -> MigSlice:
    found = re.search(r"\bMIG (\d[0-9a-z.+-]{1,30})$", name)
    return MigSlice(profile=found[1] if found else None, multiprocessors=multiprocessors)


def _first(pair: Any) -> Any:
    return pair[0] if isinstance(pair, list | tuple) and pair else None


def _switch(value: Any) -> bool | None:
    return bool(value) if type(value) is int and value in (0, 1) else None
