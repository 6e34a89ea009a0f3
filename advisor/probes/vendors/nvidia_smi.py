"""``nvidia-smi -q -x``: the same answers as the driver's library gives, for where that cannot be asked.

The program prints one element a line, a few of which hold words in place of numbers: ``N/A``, ``[N/A]``, ``Requested
functionality has been deprecated``. Those are unknown. Memory is in MiB. Only what is read here is kept in recordings:
the rest names processes and serial numbers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_DOCTYPE: Final = re.compile(r"<!DOCTYPE\s+nvidia_smi_log\s+SYSTEM\s+(\"[^\"<>\[\]]{0,200}\"|'[^'<>\[\]]{0,200}')\s*>")
_LIBRARY: Final = re.compile(r"NVML library version:\s*(\d{3,4}(?:\.\d{1,4}){1,2})")
_FIRST: Final = re.compile(r"Failed to initialize NVML: [A-Za-z/ ]{1,80}")
# Every element that is read, and so kept in a recording; ``processes`` keeps only how many and how much.
_KEPT: Final = frozenset(
    (
        *("nvidia_smi_log", "driver_version", "cuda_version", "gpu", "product_name", "uuid", "compute_mode"),
        *("display_active", "display_attached", "mig_mode", "current_mig", "mig_devices", "mig_device"),
        *("device_attributes", "shared", "multiprocessor_count", "fb_memory_usage", "total", "reserved", "free"),
        *("pci", "pci_bus_id", "pci_gpu_link_info", "pcie_gen", "link_widths", "max_link_gen", "current_link_gen"),
        *("max_link_width", "current_link_width", "ecc_mode", "current_ecc", "max_clocks", "mem_clock"),
        *("gpu_virtualization_mode", "virtualization_mode", "processes", "process_info", "used_memory"),
    )
)
_MODES: Final = {"default": 0, "prohibited": 2, "exclusive_process": 3}
_VIRTUAL: Final = {"none": 0, "pass-through": 1, "vgpu": 2}


def parse(stdout: object) -> dict[str, Any] | None:
    """A reply of the shape that ``ask.py nvml`` gives; ``None`` where the text is no log of at least one device."""
    log = _log(stdout)
    if log is None:
        return None
    devices = [_device(n, gpu) for n, gpu in enumerate(log.findall("gpu")[:256])]
    if not devices:
        return None
    return {"driver": _word(log, "driver_version"), "cuda": _word(log, "cuda_version"), "devices": devices}


def library_version(stdout: object) -> str | None:
    """The version of the library that ``nvidia-smi`` names when the kernel's driver has another one."""
    found = _LIBRARY.search(stdout) if isinstance(stdout, str) else None
    return found[1] if found else None


def kept(stdout: str) -> str:
    """The part of the output that ``parse`` and ``library_version`` read; nothing else goes into a recording."""
    from xml.etree.ElementTree import tostring

    log = _log(stdout)
    if log is None:
        return "\n".join(m[0] for m in (_FIRST.search(stdout), _LIBRARY.search(stdout)) if m)
    _prune(log, 0)
    return tostring(log, encoding="unicode")


def _log(stdout: object) -> Element | None:
    """The root element. The line that names the DTD is taken out; any other declaration is refused, so that no entity
    is ever expanded."""
    if not isinstance(stdout, str):
        return None
    text = _DOCTYPE.sub("", stdout, count=1)
    if "<!" in text:
        return None
    import xml.etree.ElementTree as ET

    try:
        root = ET.fromstring(text.strip())  # noqa: S314 - no declarations are left in it
    except (ET.ParseError, ValueError, RecursionError):
        return None
    return root if root.tag == "nvidia_smi_log" else None


def _prune(element: Element, depth: int) -> None:
    element.tail = None
    identity = element.get("id") if element.tag == "gpu" else None
    element.attrib.clear()
    if identity is not None:
        element.set("id", identity)
    for child in list(element):
        if child.tag not in _KEPT or depth > 8:
            element.remove(child)
        else:
            _prune(child, depth + 1)
    if len(element):
        element.text = None


def _device(index: int, gpu: Element) -> dict[str, Any]:
    pci = _word(gpu, "pci/pci_bus_id") or gpu.get("id")
    link = "pci/pci_gpu_link_info/"
    ecc, display = _switch(gpu, "ecc_mode/current_ecc"), _switch(gpu, "display_active")
    mig = None
    if _switch(gpu, "mig_mode/current_mig"):
        mig = {"slices": [_slice(part) for part in gpu.findall("mig_devices/mig_device")[:64]]}
    return {
        "index": index,
        "name": _word(gpu, "product_name"),
        "uuid": _word(gpu, "uuid"),
        "pci": pci,
        "memory": _memory(gpu),
        "pcie_gen": _number(gpu, f"{link}pcie_gen/max_link_gen"),
        "pcie_width": _number(gpu, f"{link}link_widths/max_link_width"),
        "pcie_gen_now": _number(gpu, f"{link}pcie_gen/current_link_gen"),
        "pcie_width_now": _number(gpu, f"{link}link_widths/current_link_width"),
        "ecc": None if ecc is None else [int(ecc), int(ecc)],
        "display": None if display is None else int(display),
        "compute_mode": _MODES.get((_word(gpu, "compute_mode") or "").lower()),
        "virtualization": _VIRTUAL.get((_word(gpu, "gpu_virtualization_mode/virtualization_mode") or "").lower()),
        "memory_clock_mhz": _number(gpu, "max_clocks/mem_clock"),
        "processes": _processes(gpu),
        "mig": mig,
    }


def _slice(part: Element) -> dict[str, Any]:
    """A slice; neither its name nor its UUID is printed."""
    return {
        "memory": _memory(part),
        "multiprocessors": _number(part, "device_attributes/shared/multiprocessor_count"),
    }


def _memory(element: Element) -> dict[str, Any]:
    found = {word: _bytes(element, f"fb_memory_usage/{word}") for word in ("total", "free", "reserved")}
    return found if found["total"] is not None else {"error": "NOT_SUPPORTED"}


def _processes(gpu: Element) -> dict[str, Any] | None:
    """``None`` where the list is not given (``N/A``, in place of a list)."""
    text = gpu.findtext("processes")
    if text is None or text.strip():
        return None
    found = gpu.findall("processes/process_info")
    used = [_bytes(process, "used_memory") for process in found]
    known = [taken for taken in used if taken is not None]
    return {"count": len(found), "used": sum(known) if len(known) == len(used) else None}


def _word(element: Element, path: str) -> str | None:
    text = (element.findtext(path) or "").strip()
    return text if text and text.strip("[]").upper() not in ("N/A", "NOT SUPPORTED", "UNKNOWN ERROR") else None


def _number(element: Element, path: str) -> int | None:
    """The whole number at the start: ``16x`` and ``1215 MHz``."""
    found = re.match(r"(\d{1,12})(?:x| MHz)?$", _word(element, path) or "", re.ASCII)
    return int(found[1]) if found else None


def _bytes(element: Element, path: str) -> int | None:
    found = re.fullmatch(r"(\d{1,12}) MiB", _word(element, path) or "", re.ASCII)
    return int(found[1]) << 20 if found else None


def _switch(element: Element, path: str) -> bool | None:
    return {"enabled": True, "disabled": False, "yes": True, "no": False}.get((_word(element, path) or "").lower())
