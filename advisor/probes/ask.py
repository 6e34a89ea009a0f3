"""Asks a driver one question and prints the answer as JSON; started by the probe as a process of its own.

Usage: ``python -I ask.py nvml|cpuinfo|metal FOLDER`` with the folder that holds the Python package to ask with.
Standard library only besides that package. What a device does not answer becomes ``{"error": NAME}`` in its place, so
that "not supported" and "zero" stay apart.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def _try(nvml: Any, call: str, *args: Any) -> Any:
    """The answer as text, number or list, or ``{"error": NAME}``; an older binding may lack a call."""
    try:
        answer = getattr(nvml, call)(*args)
    except Exception as e:  # noqa: BLE001 - whatever the binding raises is part of the answer
        return {"error": _name(e)}
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def _name(error: Exception) -> str:
    """``NOT_SUPPORTED`` of ``NVMLError_NotSupported``; else the type and its text."""
    import re

    found = re.fullmatch(r"NVMLError_(\w+)", type(error).__name__)
    if found:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[1]).upper()
    return f"{type(error).__name__}: {error}"[:300]


def _memory(nvml: Any, handle: Any) -> dict[str, Any]:
    """Total, free and, from version 2 of the call, what the driver keeps for itself; bytes."""
    version_2 = getattr(nvml, "nvmlMemory_v2", None)
    if version_2 is not None:
        info = _try(nvml, "nvmlDeviceGetMemoryInfo", handle, version_2)
        if not isinstance(info, dict):
            return {"total": info.total, "free": info.free, "reserved": info.reserved}
    info = _try(nvml, "nvmlDeviceGetMemoryInfo", handle)
    return info if isinstance(info, dict) else {"total": info.total, "free": info.free}


def _mig(nvml: Any, handle: Any) -> dict[str, Any] | None:
    """Whether the device is split, and its slices; ``None`` where it cannot be."""
    mode = _try(nvml, "nvmlDeviceGetMigMode", handle)
    if isinstance(mode, dict) or not mode[0]:
        return None
    count = _try(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle)
    slices = []
    for i in range(count if isinstance(count, int) else 0):
        part = _try(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, i)
        if isinstance(part, dict):
            continue
        attributes = _try(nvml, "nvmlDeviceGetAttributes_v2", part)
        slices.append(
            {
                "name": _try(nvml, "nvmlDeviceGetName", part),
                "uuid": _try(nvml, "nvmlDeviceGetUUID", part),
                "memory": _memory(nvml, part),
                "multiprocessors": attributes if isinstance(attributes, dict) else int(attributes.multiprocessorCount),
                "processes": _processes(nvml, part),
            }
        )
    return {"slices": slices}


def _processes(nvml: Any, handle: Any) -> dict[str, Any]:
    """How many processes use the device and with how many bytes; who they are is never looked up."""
    used: dict[int, int | None] = {}
    for call in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        found = _try(nvml, call, handle)
        if isinstance(found, dict):
            return found
        for process in found:
            taken, known = process.usedGpuMemory, used.get(process.pid)
            used[process.pid] = known if taken is None else max(taken, known or 0)
    known_all = all(taken is not None for taken in used.values())
    return {"count": len(used), "used": sum(taken or 0 for taken in used.values()) if known_all else None}


def _nvlink(nvml: Any, handle: Any) -> dict[str, Any] | None:
    """The NVLinks that are up, their version and the speed of one in MB/s each way; ``None`` where there are none."""
    active = []
    for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)):
        state = _try(nvml, "nvmlDeviceGetNvLinkState", handle, link)
        if isinstance(state, dict):
            break
        active += [link] if state else []
    if not active:
        return None
    speed = None
    for name in ("NVML_FI_DEV_NVLINK_GET_SPEED", "NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON"):
        field = getattr(nvml, name, None)
        values = _try(nvml, "nvmlDeviceGetFieldValues", handle, [(field, active[0])]) if field is not None else {}
        # valueType 1 is an unsigned int, 3 an unsigned long long (nvml.h, nvmlValueType_t).
        if speed is None and not isinstance(values, dict) and not values[0].nvmlReturn:
            found = values[0]
            speed = {1: found.value.uiVal, 3: found.value.ullVal}.get(found.valueType) or None
    return {
        "active": len(active),
        "version": _try(nvml, "nvmlDeviceGetNvLinkVersion", handle, active[0]),
        "mbps": speed,
    }


def _address(nvml: Any, handle: Any) -> Any:
    """The address on the PCI bus as the driver writes it, ``00000000:01:00.0``."""
    info = _try(nvml, "nvmlDeviceGetPciInfo", handle)
    if isinstance(info, dict):
        return info
    return info.busId.decode("ascii", "replace") if isinstance(info.busId, bytes) else str(info.busId)


# What is asked of each device: the word in the reply, the call, and what it takes besides the device.
_CALLS = (
    ("name", "nvmlDeviceGetName"),
    ("uuid", "nvmlDeviceGetUUID"),
    ("compute_capability", "nvmlDeviceGetCudaComputeCapability"),
    ("pcie_gen", "nvmlDeviceGetMaxPcieLinkGeneration"),
    ("pcie_width", "nvmlDeviceGetMaxPcieLinkWidth"),
    ("pcie_gen_now", "nvmlDeviceGetCurrPcieLinkGeneration"),
    ("pcie_width_now", "nvmlDeviceGetCurrPcieLinkWidth"),
    ("ecc", "nvmlDeviceGetEccMode"),
    ("display", "nvmlDeviceGetDisplayActive"),
    ("compute_mode", "nvmlDeviceGetComputeMode"),
    ("virtualization", "nvmlDeviceGetVirtualizationMode"),
    ("cores", "nvmlDeviceGetNumGpuCores"),
    ("bus_width", "nvmlDeviceGetMemoryBusWidth"),
)
# nvml.h, nvmlClockType_t: NVML_CLOCK_MEM.
_CLOCK_OF_MEMORY = 2


def nvml_reply(nvml: Any) -> dict[str, Any]:
    """All that the probe wants of the driver. ``nvml`` is the ``pynvml`` module."""
    try:
        nvml.nvmlInit()
    except Exception as e:  # noqa: BLE001
        return {"error": {"code": _name(e), "message": str(e)[:300]}}
    devices: list[dict[str, Any]] = []
    count = _try(nvml, "nvmlDeviceGetCount")
    if isinstance(count, dict):
        return {"error": {"code": count["error"], "message": "the driver does not say how many devices there are"}}
    for index in range(min(int(count), 256)):
        handle = _try(nvml, "nvmlDeviceGetHandleByIndex", index)
        if isinstance(handle, dict):
            devices.append({"index": index, "error": handle["error"]})
            continue
        devices.append(
            {"index": index}
            | {word: _try(nvml, call, handle) for word, call in _CALLS}
            | {
                "pci": _address(nvml, handle),
                "memory": _memory(nvml, handle),
                "memory_clock_mhz": _try(nvml, "nvmlDeviceGetMaxClockInfo", handle, _CLOCK_OF_MEMORY),
                "processes": _processes(nvml, handle),
                "nvlink": _nvlink(nvml, handle),
                "mig": _mig(nvml, handle),
            }
        )
    return {
        "driver": _try(nvml, "nvmlSystemGetDriverVersion"),
        "cuda": _try(nvml, "nvmlSystemGetCudaDriverVersion_v2"),
        "devices": devices,
    }


def metal_reply() -> dict[str, Any]:
    """The default Metal device, through the Objective-C runtime; macOS only.

    Metal finds no device in a process without CoreGraphics, which is therefore loaded too. Numbers of GPU families:
    Apple, ``MTLGPUFamily`` (``apple7`` is the M1, ``metal3`` has bfloat).
    """
    import ctypes

    frameworks = "/System/Library/Frameworks"
    try:
        ctypes.CDLL(f"{frameworks}/CoreGraphics.framework/CoreGraphics")
        metal = ctypes.CDLL(f"{frameworks}/Metal.framework/Metal")
        objc = ctypes.CDLL("/usr/lib/libobjc.A.dylib")
    except OSError as e:
        return {"error": {"code": "not-installed", "message": f"Metal cannot be loaded: {e}"[:300]}}
    objc.sel_registerName.restype = ctypes.c_void_p
    objc.sel_registerName.argtypes = (ctypes.c_char_p,)
    address = ctypes.cast(objc.objc_msgSend, ctypes.c_void_p).value or 0

    def send(to: Any, message: bytes, result: Any, *arguments: tuple[Any, Any]) -> Any:
        # Each message has a prototype of its own: on arm64 a variadic call would pass arguments elsewhere.
        call = ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p, *(kind for kind, _ in arguments))(address)
        return call(to, objc.sel_registerName(message), *(value for _, value in arguments))

    def answers(to: Any, message: bytes) -> bool:
        asked = (ctypes.c_void_p, objc.sel_registerName(message))
        return bool(send(to, b"respondsToSelector:", ctypes.c_bool, asked))

    metal.MTLCreateSystemDefaultDevice.restype = ctypes.c_void_p
    metal.MTLCreateSystemDefaultDevice.argtypes = ()
    device = metal.MTLCreateSystemDefaultDevice()
    if not device:
        return {"error": {"code": "no-device", "message": "Metal has no device"}}
    reply: dict[str, Any] = {}
    name = send(device, b"name", ctypes.c_void_p)
    text = send(name, b"UTF8String", ctypes.c_char_p) if name else None
    reply["name"] = text.decode("utf-8", "replace") if text else None
    for key, message, kind in (
        ("recommended_max_working_set_size", b"recommendedMaxWorkingSetSize", ctypes.c_uint64),
        ("max_buffer_length", b"maxBufferLength", ctypes.c_uint64),
        ("has_unified_memory", b"hasUnifiedMemory", ctypes.c_bool),
    ):
        reply[key] = send(device, message, kind) if answers(device, message) else None
    families = {1007: "apple7", 1008: "apple8", 1009: "apple9", 1010: "apple10", 5001: "metal3", 5002: "metal4"}
    if answers(device, b"supportsFamily:"):
        reply["families"] = [
            family
            for number, family in families.items()
            if send(device, b"supportsFamily:", ctypes.c_bool, (ctypes.c_long, number))
        ]
    return reply


def main(argv: list[str]) -> int:
    """Print one JSON object; exit status 0 whenever there is one."""
    word, folder = argv
    sys.path.append(folder)
    if word == "nvml":
        import pynvml

        reply = nvml_reply(pynvml)
    elif word == "metal":
        reply = metal_reply()
    else:
        import cpuinfo

        reply = cpuinfo.get_cpu_info()
    sys.stdout.write(json.dumps(reply, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
