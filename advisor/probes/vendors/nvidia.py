"""NVIDIA devices: a cheap look whether there are any, then the driver's own answer, judged."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from advisor.facts.machine import Device, DeviceMemory, HostMemory, Link
from advisor.facts.quantity import Quantity, exact
from advisor.facts.text import clean
from advisor.probes.profiles import HardwareProfile
from advisor.probes.sanity import Notes, within
from advisor.probes.vendors.base import Look, unusable

VENDOR: Final = 0x10DE
_CERTAIN: Final = ("/dev/nvidiactl", "/proc/driver/nvidia/version")
# A GPU that the driver can reach without PCI: WSL 2 (of any maker), Jetson.
_POSSIBLE: Final = ("/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")
_REASONS: Final[dict[str, str]] = {
    "deadline": "the NVIDIA driver does not answer",
    "not-installed": "nvidia-ml-py is not installed, so the driver cannot be asked",
    "not-started": "the driver could not be asked",
    "no-answer": "the NVIDIA driver gave no usable answer",
    "LIBRARY_NOT_FOUND": "the NVIDIA driver's library (libnvidia-ml.so.1) is not installed",
    "DRIVER_NOT_LOADED": "the NVIDIA kernel driver is not loaded",
    "LIB_RM_VERSION_MISMATCH": "the NVIDIA library and kernel driver have different versions; a restart is due",
    "NO_PERMISSION": "this user may not talk to the NVIDIA driver",
    "GPU_IS_LOST": "the device has fallen off the bus; a restart is due",
    "INSUFFICIENT_POWER": "a power cable of the device is missing",
    "IRQ_ISSUE": "the device has an interrupt problem",
    "RESET_REQUIRED": "the device must be reset",
}


class Entry(NamedTuple):
    """One device of the driver's reply, or one slice of it."""

    number: int
    raw: dict[str, Any]
    uuid: str
    parent: dict[str, Any] | None
    reason: str | None


class Nvidia:
    """NVIDIA devices, as the driver's library tells of them."""

    name = "nvidia"

    def present(self, look: Look, /) -> bool:
        """A device on the bus, a loaded driver, or a device file behind which there may be one."""
        return _certain(look) or any(look.source.exists(path) for path in _POSSIBLE)

    def read(self, look: Look, /) -> tuple[Device, ...]:
        """The devices, visible ones first in the order of ``CUDA_VISIBLE_DEVICES``."""
        return _read(look)


PROBE: Final = Nvidia()


def _certain(look: Look) -> bool:
    return bool(look.of(VENDOR)) or any(look.source.exists(path) for path in _CERTAIN)


def _read(look: Look) -> tuple[Device, ...]:
    notes, deadline_s, seen, certain = look.notes, look.deadline_s, look.of(VENDOR), _certain(look)
    reply = look.source.ask("nvml", deadline_s)
    raw_devices = reply.get("devices")
    if "error" in reply or not isinstance(raw_devices, list):
        why = _reason(reply.get("error"), deadline_s)
        notes.add("devices.nvidia", "NVML", why)
        if not certain:
            return ()
        names = [f"NVIDIA device {d.device:04x} (PCI)" for d in seen] or ["NVIDIA device"]
        return tuple(unusable("nvidia", name, why) for name in names)
    driver = clean(reply["driver"], 40) if isinstance(reply.get("driver"), str) else None
    notes.add("devices.nvidia", "NVML", f"driver {driver}" if driver else "driver version unknown")
    entries = [e for raw in raw_devices[:256] if isinstance(raw, dict) for e in _entries(raw, deadline_s)]
    return tuple(
        _device(e, look.host.memory, driver, notes)
        for e in select(entries, look.environment.get("CUDA_VISIBLE_DEVICES"), notes)
    )


def select(entries: list[Entry], visible: str | None, notes: Notes) -> list[Entry]:
    """Order and hide devices as CUDA does: by index or by the start of a UUID, up to the first that is not there.

    Source: CUDA Programming Guide, "CUDA Environment Variables". Hidden devices are kept, with the reason.
    """
    if visible is None:
        return entries
    shown: list[Entry] = []
    for n, part in enumerate(visible.split(",") if visible.strip() else [], 1):
        word = part.strip()
        if word.isdecimal():
            # A number names the whole device; of a split one CUDA takes the first slice.
            matching = [e for e in entries if e.number == int(word[:6])][:1]
        else:
            matching = [e for e in entries if word and e.uuid.lower().startswith(word.lower())]
        if len(matching) != 1 or matching[0] in shown:
            what = "is there twice" if len(matching) == 1 else "names no single device"
            notes.add("devices.nvidia", "CUDA_VISIBLE_DEVICES", f"entry {n} {what}; it and what follows is left out")
            break
        shown += matching
    reason = "hidden by CUDA_VISIBLE_DEVICES"
    return shown + [e._replace(reason=e.reason or reason) for e in entries if e not in shown]


def _entries(raw: dict[str, Any], deadline_s: float) -> list[Entry]:
    index = raw["index"] if isinstance(raw.get("index"), int) else -1
    uuid = raw["uuid"] if isinstance(raw.get("uuid"), str) else ""
    if "error" in raw:
        return [Entry(index, raw, uuid, None, _reason({"code": raw["error"]}, deadline_s))]
    mig = raw.get("mig")
    if not isinstance(mig, dict):
        return [Entry(index, raw, uuid, None, None)]
    slices = [s for s in mig.get("slices") or () if isinstance(s, dict)]
    if not slices:
        return [Entry(index, raw, uuid, None, "it is in MIG mode, but has no slices")]
    return [Entry(index, s, str(s.get("uuid") or ""), raw, None) for s in slices]


def _device(entry: Entry, host: HostMemory, driver: str | None, notes: Notes) -> Device:
    raw, whole = entry.raw, entry.parent or entry.raw
    name = clean(raw["name"], 80) if isinstance(raw.get("name"), str) else "NVIDIA device"
    what = f"{name} ({entry.number})"
    total, usable, free = _memory(raw.get("memory"), what, notes)
    whole_total = _memory(whole.get("memory"), what, Notes())[0]
    profile = _profile(whole, whole_total)
    if profile is None and entry.reason is None:
        notes.add(what, "profiles/hardware", "no profile of that name and size; bandwidth and formats are unknown")
    unified = profile is not None and profile.unified_memory
    if unified and total is None:
        total = usable = min(host.total_bytes, host.limit_bytes or host.total_bytes)
        free = host.available_bytes
        notes.add(what, "/proc/meminfo", "the driver reports no memory; it shares the host's")
    if total is None and entry.reason is None:
        notes.add(what, "NVML", "memory is not reported; unknown")
    capability = _capability(whole.get("compute_capability"))
    gen = notes.sane_int(_number(whole.get("pcie_gen")), "pcie generation", what, "NVML")
    width = notes.sane_int(_number(whole.get("pcie_width")), "pcie width", what, "NVML")
    bandwidth = profile.bandwidth if profile else None
    if entry.parent is not None and bandwidth is not None:
        bandwidth = _slice(bandwidth, total, whole_total)
    return Device(
        id="gpu",
        vendor="nvidia",
        name=name,
        profile=profile.id if profile else None,
        memory=DeviceMemory(total_bytes=total, usable_bytes=usable, free_bytes=free),
        bandwidth=bandwidth,
        compute_capability=notes.sane(capability, "compute capability", what, "NVML"),
        formats=dict(profile.formats) if profile else {},
        unified_memory=unified,
        link=Link(pcie_gen=gen, pcie_width=width) if gen or width else None,
        unusable=entry.reason,
        fp16_tflops=profile.fp16_tflops if profile and entry.parent is None else None,
        arch=profile.arch if profile else None,
        driver=driver,
    )


def _profile(raw: dict[str, Any], total: int | None) -> HardwareProfile | None:
    # Imported here: the catalogue is of no use on a machine without a device.
    from advisor.errors import AdvisorError
    from advisor.probes.catalog import match_driver_name

    try:
        return match_driver_name(raw["name"], total) if isinstance(raw.get("name"), str) else None
    except AdvisorError:
        return None


def _memory(raw: Any, what: str, notes: Notes) -> tuple[int | None, int | None, int | None]:
    """Total, usable on an idle device, and free bytes; ``None`` where the driver does not say or cannot be right."""
    if not isinstance(raw, dict) or "error" in raw:
        return None, None, None
    total = notes.sane_int(raw.get("total"), "memory", f"{what} memory", "NVML")
    free = notes.sane_int(raw.get("free"), "free memory", f"{what} free memory", "NVML")
    kept = notes.sane_int(raw.get("reserved"), "free memory", f"{what} reserved memory", "NVML")
    if total is None:
        return None, None, None
    if free is not None and free > total:
        notes.add(f"{what} free memory", "NVML", f"invalid: {free} of {total} bytes; taken as unknown")
        free = None
    usable = total - kept if kept is not None and within(total - kept, "memory") else None
    return total, usable, free


def _slice(whole: Quantity, part: int | None, total: int | None) -> Quantity | None:
    """A slice has the share of the bandwidth that it has of the memory."""
    if part is None or total is None or part > total:
        return None
    return exact(int(whole.value * part / total), "bytes/s", f"share of the memory x {whole.source}", "formula")


def _reason(error: Any, deadline_s: float) -> str:
    code = clean(str(error.get("code")), 60) if isinstance(error, dict) else ""
    if code == "deadline":
        return f"{_REASONS[code]} within {deadline_s:g} s"
    if code in _REASONS:
        return _REASONS[code]
    message = clean(str(error.get("message") or ""), 120) if isinstance(error, dict) else ""
    return "the NVIDIA driver answers with an error: " + (" ".join(w for w in (code, message) if w) or "unknown")


def _number(value: Any) -> Any:
    """What the driver does not answer is an error object; it is as unknown as nothing."""
    return None if isinstance(value, dict) else value


def _capability(pair: Any) -> float | None:
    """Major and minor number as one: ``[8, 9]`` is 8.9."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(v) is int and 0 <= v < 100 for v in pair):
        return None
    return float(round(pair[0] + pair[1] / 10, 1))
