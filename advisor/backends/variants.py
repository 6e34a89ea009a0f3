"""Which variant of a managed environment a machine takes: the CPU's, CUDA's or ROCm's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from advisor.backends import pins as pins_

if TYPE_CHECKING:
    from advisor.facts.machine import Device, Machine

VariantName = Literal["cpu", "cuda", "rocm"]

# torch 2.13.0 of the public index is built for CUDA 13.0 (its package metadata: cuda-toolkit 13.0). That needs a driver
# of branch 580 and leaves out what came before Turing (CUDA 13.0 release notes).
CUDA: Final = (13, 0)
CUDA_DRIVER: Final = 580
CUDA_CAPABILITY: Final = 7.5
# vLLM's list for its ROCm build (installation guide, "GPU, AMD ROCm").
ROCM_ARCHES: Final = frozenset(
    {"gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1150", "gfx1151", "gfx1200", "gfx1201"}
)


class Choice(NamedTuple):
    """A variant, and why a device that is there is not what it is for."""

    variant: VariantName
    why: tuple[str, ...] = ()


def _number(version: str | None) -> tuple[int, ...] | None:
    return tuple(int(n) for n in version.split(".")) if version and re.fullmatch(r"\d+(\.\d+)*", version) else None


def _not_cuda(device: Device, *, named: bool = False) -> str | None:
    capability, cuda, driver = device.compute_capability, _number(device.cuda), _number(device.driver)
    wanted = ".".join(map(str, CUDA))
    if capability is not None and capability < CUDA_CAPABILITY:
        return f"{device.name}: CUDA {wanted} builds need compute capability {CUDA_CAPABILITY}, this has {capability}"
    if cuda is None and driver is None:
        if named:
            return None
        return f"{device.name}: whether its driver runs CUDA {wanted} is not known"
    if (cuda is not None and cuda < CUDA) or (cuda is None and driver is not None and driver[0] < CUDA_DRIVER):
        runs = f" (it runs CUDA {device.cuda} at most)" if device.cuda is not None else ""
        return (
            f"{device.name}: the driver {device.driver or 'here'}{runs} is too old for builds for CUDA {wanted}, which "
            f"need {CUDA_DRIVER} or newer: update the driver, or take builds for an older CUDA from PyTorch's own index"
        )
    return None


def _not_rocm(device: Device) -> str | None:
    if device.apis is not None and "rocm" not in device.apis:
        return f"{device.name}: this user cannot reach it through ROCm"
    if device.arch not in ROCM_ARCHES:
        return f"{device.name}: ROCm builds are not made for {device.arch or 'its unknown architecture'}"
    return None


def against(device: Device, *, named: bool = False) -> str | None:
    """Why the CUDA or ROCm builds do not run on ``device``; ``None`` where they do, or where its maker has neither.

    ``named``: of a device that only has a name the driver is not known, and taken as new.
    """
    if device.vendor == "nvidia":
        return _not_cuda(device, named=named)
    return _not_rocm(device) if device.vendor == "amd" else None


def choose(machine: Machine) -> Choice:
    """The variant for ``machine``: CUDA where a usable NVIDIA device has a driver that is new enough, else ROCm where a
    usable AMD device is built for, else the CPU; with the reasons against each usable device that is passed over."""
    why: list[str] = []
    if machine.host.os != "linux":
        return Choice("cpu")
    order: tuple[tuple[str, VariantName], ...] = (("nvidia", "cuda"), ("amd", "rocm"))
    for vendor, variant in order:
        for device in machine.devices:
            if device.vendor != vendor or device.unusable is not None:
                continue
            reason = against(device)
            if reason is None:
                return Choice(variant, tuple(dict.fromkeys(why)))
            why.append(reason)
    return Choice("cpu", tuple(dict.fromkeys(why)))


def variant_for(machine: Machine) -> VariantName:
    """``choose(machine).variant``."""
    return choose(machine).variant


def best(name: str, machine: Machine) -> str | None:
    """The variant of the environment ``name`` for ``machine``; ``None`` where there is one for all machines.

    Raises:
        AdvisorError: ``backend-not-found``.
    """
    has = pins_.variants(name)
    if not has:
        return None
    wanted = variant_for(machine)
    return wanted if wanted in has else pins_.BASE_VARIANT
