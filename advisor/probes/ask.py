"""Asks a driver one question and prints the answer as JSON; started by the probe as a process of its own.

Usage: ``python -I ask.py nvml|cpuinfo FOLDER`` with the folder that holds the Python package to ask with. Standard
library only besides that package. What a device does not answer becomes ``{"error": NAME}`` in its place, so that
"not supported" and "zero" stay apart.
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
        slices.append(
            {
                "name": _try(nvml, "nvmlDeviceGetName", part),
                "uuid": _try(nvml, "nvmlDeviceGetUUID", part),
                "memory": _memory(nvml, part),
            }
        )
    return {"slices": slices}


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
            {
                "index": index,
                "name": _try(nvml, "nvmlDeviceGetName", handle),
                "uuid": _try(nvml, "nvmlDeviceGetUUID", handle),
                "memory": _memory(nvml, handle),
                "compute_capability": _try(nvml, "nvmlDeviceGetCudaComputeCapability", handle),
                "pcie_gen": _try(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", handle),
                "pcie_width": _try(nvml, "nvmlDeviceGetMaxPcieLinkWidth", handle),
                "mig": _mig(nvml, handle),
            }
        )
    return {
        "driver": _try(nvml, "nvmlSystemGetDriverVersion"),
        "cuda": _try(nvml, "nvmlSystemGetCudaDriverVersion_v2"),
        "devices": devices,
    }


def main(argv: list[str]) -> int:
    """Print one JSON object; exit status 0 whenever there is one."""
    word, folder = argv
    sys.path.append(folder)
    if word == "nvml":
        import pynvml

        reply = nvml_reply(pynvml)
    else:
        import cpuinfo

        reply = cpuinfo.get_cpu_info()
    sys.stdout.write(json.dumps(reply, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
