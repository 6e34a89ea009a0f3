"""Measure how fast a device copies within its own memory.

Request: ``{"kinds": ["cuda", "xpu", "mps"], "bytes": 1073741824, "repeats": 7}``; ``cpu`` is a kind too. ``bytes`` is
the most that one of the two buffers takes; no more than a tenth of what is free on the device is taken for both.

Result: ``{"torch": version, "devices": [{"kind", "index", "name", "uuid", "best", "median", "worst", "bytes"}]}`` with
rates in bytes a second: a copy of n bytes moves 2 n of them. A device that cannot be measured has an ``"error"`` in
their place. ROCm builds call their devices ``cuda``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol

SMALLEST = 16 << 20


def count(torch: Any, kind: str) -> int:
    """Devices of a kind that this build of torch can use."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        backend = getattr(torch.backends, "mps", None)
        return 1 if backend is not None and backend.is_available() else 0
    part = getattr(torch, kind, None)
    return int(part.device_count()) if part is not None and part.is_available() else 0


def describe(torch: Any, kind: str, index: int) -> tuple[str, str | None]:
    """What the device calls itself, and its UUID where torch knows it."""
    if kind in ("cpu", "mps"):
        return kind, None
    properties = getattr(torch, kind).get_device_properties(index)
    uuid = getattr(properties, "uuid", None)
    return str(properties.name), None if uuid is None else str(uuid)


def free_bytes(torch: Any, kind: str, index: int) -> int | None:
    """Free memory of the device; ``None`` where torch cannot say."""
    if kind == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    part = getattr(torch, kind, None)
    asked = getattr(part, "mem_get_info", None)
    return None if asked is None else int(asked(index)[0])


def wait(torch: Any, kind: str, index: int) -> None:
    """Return when the device has done all that it was given."""
    if kind == "mps":
        torch.mps.synchronize()
    elif kind != "cpu":
        getattr(torch, kind).synchronize(index)


def measure(torch: Any, kind: str, index: int, size: int, repeats: int) -> dict[str, Any]:
    """Rates of copying one buffer over another.

    Raises:
        Failed: ``not-enough-memory``, too little is free to say anything.
    """
    free = free_bytes(torch, kind, index)
    if free is not None:
        size = min(size, free // 20)
    if size < SMALLEST:
        raise protocol.Failed("not-enough-memory", f"{free} bytes are free on {kind}:{index}.")
    where = "cpu" if kind == "cpu" else f"{kind}:{index}"
    source = torch.zeros(size, dtype=torch.uint8, device=where)
    target = torch.ones(size, dtype=torch.uint8, device=where)
    rates = []
    # The first passes raise clocks and touch pages; they do not count.
    for n in range(repeats + 2):
        wait(torch, kind, index)
        begun = time.perf_counter()
        target.copy_(source)
        wait(torch, kind, index)
        if n >= 2:
            rates.append(2 * size / max(time.perf_counter() - begun, 1e-9))
    if bool(target[-1].item()):
        raise protocol.Failed("step-failed", f"the copy on {where} did not arrive")
    rates.sort()
    return {"best": rates[-1], "median": rates[len(rates) // 2], "worst": rates[0], "bytes": size}


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Measure every device of every kind that was asked for."""
    import torch

    size, repeats = int(request.get("bytes", 1 << 30)), max(1, int(request.get("repeats", 7)))
    devices: list[dict[str, Any]] = []
    for kind in request.get("kinds", ["cuda", "xpu", "mps"]):
        for index in range(count(torch, kind)):
            protocol.progress(len(devices), None, "devices", f"{kind}:{index}", force=True)
            name, uuid = describe(torch, kind, index)
            one: dict[str, Any] = {"kind": kind, "index": index, "name": name, "uuid": uuid}
            try:
                one |= measure(torch, kind, index, size, repeats)
            except (protocol.Failed, RuntimeError) as e:
                one["error"] = f"{type(e).__name__}: {e}"[:300]
            devices.append(one)
    return {"torch": str(torch.__version__), "devices": devices}


if __name__ == "__main__":
    protocol.run(work, code="step-failed")
