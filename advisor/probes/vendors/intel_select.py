"""Which Intel devices a program may see: the variables of Level Zero and of the oneAPI runtime.

``ZE_AFFINITY_MASK`` lists devices of Level Zero, ``0`` or ``0.1`` for a tile of one. ``ONEAPI_DEVICE_SELECTOR`` has
terms between semicolons, ``level_zero:0,1``, ``level_zero:gpu``, ``*:*``; a term that begins with ``!`` takes devices
out again. Source: oneAPI Level Zero specification, "Environment Variables"; intel/llvm, sycl/doc/EnvironmentVariables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from advisor.probes.sanity import Notes

_MASK: Final = "ZE_AFFINITY_MASK"
_SELECTOR: Final = "ONEAPI_DEVICE_SELECTOR"
_BACKENDS: Final = ("*", "level_zero", "opencl")
_MAX_TERMS: Final = 64


def hidden(count: int, environment: Mapping[str, str], notes: Notes) -> dict[int, str]:
    """The devices of ``count``, numbered as Level Zero does, that a variable hides, and which one."""
    found: dict[int, str] = {}
    left = list(range(count))
    mask = environment.get(_MASK, "").strip()
    if mask:
        shown = _masked(mask, count, notes)
        found |= {n: _MASK for n in left if n not in shown}
        left = [n for n in left if n in shown]
    selector = environment.get(_SELECTOR, "").strip()
    if selector:
        accepted = _selected(selector, len(left), notes)
        found |= {n: _SELECTOR for position, n in enumerate(left) if position not in accepted}
    return found


def _masked(mask: str, count: int, notes: Notes) -> set[int]:
    shown: set[int] = set()
    for part in mask.split(",")[:_MAX_TERMS]:
        match = re.fullmatch(r"(\d{1,4})(\.\d{1,4})*", part.strip(), re.ASCII)
        if match is None or int(match[1]) >= count:
            notes.add("devices.intel", _MASK, "names a device that is not there; passed over")
            continue
        shown.add(int(match[1]))
        if "." in part:
            notes.add("devices.intel", _MASK, "names a tile; planned with the whole device")
    return shown


def _selected(selector: str, count: int, notes: Notes) -> set[int]:
    """Numbers among the devices that are left; a selector of exclusions alone accepts all else."""
    accepted: set[int] = set()
    refused: set[int] = set()
    any_positive = False
    for raw in selector.split(";")[:_MAX_TERMS]:
        term = raw.strip().lower()
        negative = term.startswith("!")
        backend, colon, devices = term.removeprefix("!").partition(":")
        if not colon:
            notes.add("devices.intel", _SELECTOR, "has a term that is not backend:devices; passed over")
            continue
        any_positive = any_positive or not negative
        if backend not in _BACKENDS:
            continue
        numbers = _numbers(devices, count)
        if negative:
            refused |= numbers
        else:
            accepted |= numbers
    return (accepted if any_positive else set(range(count))) - refused


def _numbers(devices: str, count: int) -> set[int]:
    found: set[int] = set()
    for part in devices.split(",")[:_MAX_TERMS]:
        word = part.strip()
        if word in ("*", "gpu"):
            found |= set(range(count))
        elif match := re.fullmatch(r"(\d{1,4})(\.[\d*]+)*", word, re.ASCII):
            found.add(int(match[1]))
    return {n for n in found if n < count}
