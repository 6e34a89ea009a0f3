"""Which AMD devices a program may see: the variables of ROCm, applied one after the other as ROCm does.

``ROCR_VISIBLE_DEVICES`` takes numbers in the order of the kernel's nodes, or ``GPU-`` and the device's unique id.
``GPU_DEVICE_ORDINAL`` and ``HIP_VISIBLE_DEVICES`` then take numbers among those that are left; HIP reads
``CUDA_VISIBLE_DEVICES`` where its own variable is empty. A list ends at the first word that names no device.
Source: ROCm documentation, "GPU isolation techniques"; ROCm/clr and ROCR-Runtime, how the lists are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from advisor.probes.sanity import Notes


class Shown(NamedTuple):
    """The devices that ROCm shows, in its order, and the variable that hides each other one."""

    order: tuple[int, ...]
    hidden: dict[int, str]


def select(uuids: tuple[str, ...], environment: Mapping[str, str], notes: Notes, *, cuda: bool) -> Shown:
    """Apply the variables.

    Args:
        uuids: the unique ids of all devices in ROCm's order, empty where unknown.
        cuda: ``CUDA_VISIBLE_DEVICES`` is meant for AMD devices, since there is no NVIDIA device.
    """
    order = tuple(range(len(uuids)))
    hidden: dict[int, str] = {}
    for variable, value in _stages(environment, cuda=cuda):
        left = _picked(order, uuids, variable, value, notes)
        hidden |= {n: variable for n in order if n not in left}
        order = left
    return Shown(order, hidden)


def _stages(environment: Mapping[str, str], *, cuda: bool) -> list[tuple[str, str]]:
    stages = []
    if "ROCR_VISIBLE_DEVICES" in environment:
        # Of the three this is the one that hides all devices when it is empty.
        stages.append(("ROCR_VISIBLE_DEVICES", environment["ROCR_VISIBLE_DEVICES"]))
    if environment.get("GPU_DEVICE_ORDINAL"):
        stages.append(("GPU_DEVICE_ORDINAL", environment["GPU_DEVICE_ORDINAL"]))
    names = ("HIP_VISIBLE_DEVICES", *(("CUDA_VISIBLE_DEVICES",) if cuda else ()))
    chosen = next((name for name in names if environment.get(name)), None)
    if chosen is not None:
        stages.append((chosen, environment[chosen]))
    return stages


def _picked(order: tuple[int, ...], uuids: tuple[str, ...], variable: str, value: str, notes: Notes) -> tuple[int, ...]:
    left: list[int] = []
    for n, part in enumerate(value.split(",") if value.strip() else [], 1):
        word = part.strip()
        found: list[int] = []
        if word.isdecimal() and word.isascii():
            found = [order[int(word[:6])]] if int(word[:6]) < len(order) else []
        elif variable == "ROCR_VISIBLE_DEVICES" and word.upper().startswith("GPU-") and len(word) > 4:
            start = word[4:].lower()
            found = [i for i in order if uuids[i].lower().startswith(start)]
        if len(found) != 1 or found[0] in left:
            what = "is there twice" if len(found) == 1 else "names no single device"
            notes.add("devices.amd", variable, f"entry {n} {what}; it and what follows is left out")
            break
        left += found
    return tuple(left)
