"""Speed classes of devices, and the fitted figures of profiles/speed."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from advisor.datafiles import profiles_dir
from advisor.facts.base import Shape, loads
from advisor.facts.machine import Device
from advisor.facts.quantity import Method

_HBM: Final = ("a100", "a30", "h100", "h200", "h20", "b200", "b300", "v100", "p100", "gh200")
_GB10: Final = ("gb10", "jetson", "thor", "orin", "dgx spark")
# A large carve-out of a processor's graphics counts as memory of its own; it is as slow as the rest all the same.
_APUS: Final = ("gfx1035", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153")
# Where a class has no figures of its own, those of this one are taken as a guess.
NEAREST: Final = {
    "amd-cdna": "nvidia-hbm",
    "nvidia-pascal": "nvidia-gddr",
    "intel-arc": "amd-rdna",
    "intel-igpu": "amd-apu",
    "nvidia-gb10": "nvidia-gddr",
    "amd-apu": "amd-rdna",
    "amd-rdna": "nvidia-gddr",
    "apple": "amd-apu",
    "other": "amd-rdna",
}


class Decode(Shape, frozen=True, kw_only=True):
    """Seconds a token = bytes / (efficiency * bandwidth) + fixed; ``low`` and ``high`` are factors on the speed."""

    engine: str
    device: str
    moe: bool
    n: int
    efficiency: float
    fixed_ms: float
    low: float
    high: float
    method: Method
    source: str


class Prefill(Shape, frozen=True, kw_only=True):
    """Share of the dense FP16 tensor rate that reading a prompt reaches."""

    engine: str
    device: str
    n: int
    share: float
    low: float
    high: float
    method: Method
    source: str


class Figure(Shape, frozen=True, kw_only=True):
    """One number and where it is from."""

    value: float
    source: str
    low: float | None = None
    high: float | None = None


class CpuFigures(Shape, frozen=True, kw_only=True):
    """What CPU cores do in llama.cpp; ``isa`` are factors on the arithmetic by instruction set, best first."""

    read_efficiency: Figure
    decode_gflops_per_core: Figure
    prefill_gflops_per_core: Figure
    fixed_ms: Figure
    isa: dict[str, float]


class Engines(Shape, frozen=True, kw_only=True):
    """profiles/speed/engines.json."""

    about: str
    decode: tuple[Decode, ...]
    prefill: tuple[Prefill, ...]
    cpu: CpuFigures


@cache
def engines() -> Engines:
    """The fitted figures.

    Raises:
        msgspec.ValidationError: the file is damaged.
        OSError: it cannot be read.
    """
    return loads(Engines, (profiles_dir("speed") / "engines.json").read_bytes())


def device_class(device: Device) -> str:
    """The speed class of an accelerator, by vendor, memory and generation."""
    name = f"{device.profile or ''} {device.name}".lower()
    if device.vendor == "nvidia":
        if device.unified_memory or any(word in name for word in _GB10):
            return "nvidia-gb10"
        if any(word in name for word in _HBM):
            return "nvidia-hbm"
        if device.compute_capability is not None and device.compute_capability < 7.0:
            return "nvidia-pascal"
        return "nvidia-gddr"
    if device.vendor == "amd":
        if "instinct" in name or name.startswith("mi") or " mi" in name:
            return "amd-cdna"
        return "amd-apu" if device.unified_memory or device.arch in _APUS else "amd-rdna"
    if device.vendor == "intel":
        return "intel-igpu" if device.unified_memory else "intel-arc"
    return device.vendor


def _nearest(rows: tuple[Any, ...], device: str) -> tuple[Any, bool] | None:
    own = True
    seen: set[str] = set()
    while device not in seen:
        seen.add(device)
        for row in rows:
            if row.device == device:
                return row, own
        device, own = NEAREST.get(device, device), False
    return None


def decode_figures(engine: str, device: str, *, moe: bool) -> tuple[Decode, bool] | None:
    """The figures for one engine on one class of device, and whether they are of that very class."""
    rows = tuple(r for r in engines().decode if r.engine == engine and r.moe == moe)
    found: tuple[Decode, bool] | None = _nearest(rows, device)
    return found


def prefill_figures(engine: str, device: str) -> tuple[Prefill, bool] | None:
    """As ``decode_figures``, for reading a prompt."""
    rows = tuple(r for r in engines().prefill if r.engine == engine)
    found: tuple[Prefill, bool] | None = _nearest(rows, device)
    return found
