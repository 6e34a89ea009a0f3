"""What of the system around advisor often stands in the way: devices, limits, ports, builds of llama.cpp."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from advisor.facts.reports import Check
from advisor.facts.shown import counted, size

if TYPE_CHECKING:
    from advisor.facts.machine import Device, Machine
    from advisor.settings import Settings

_LOOPBACK: Final = "127.0.0.1"
# A server keeps a descriptor for each connection and each shard; a thread is a process to the kernel's limit.
_FILES_WANTED: Final = 1024
_PROCESSES_WANTED: Final = 512
# By vendor: what lists the devices and names what is wrong with them.
_LISTERS: Final = {"nvidia": "nvidia-smi", "amd": "rocm-smi", "intel": "xpu-smi discovery", "apple": "advisor probe"}


def device(d: Device, container: str | None) -> Check:
    """Whether a device can be used, and what mends it where its reason tells."""
    if d.unusable is None:
        return Check(name=d.id, ok=True, message=d.name)
    return Check(name=d.id, ok=False, message=f"{d.name}: {d.unusable}", hint=_mend(d, container))


def _mend(d: Device, container: str | None) -> str:
    why = (d.unusable or "").lower()
    if "mismatch" in why or "does not match" in why:
        return "sudo reboot  # the driver was updated while its module was loaded"
    if container is not None and "container" in why:
        if container == "kubernetes":
            return f"kubectl explain pod.spec.containers.resources.limits  # {d.vendor}.com/gpu: 1"
        return {
            "nvidia": "podman run --device nvidia.com/gpu=all IMAGE"
            if container == "podman"
            else "docker run --gpus all IMAGE",
            "amd": "docker run --device /dev/kfd --device /dev/dri IMAGE",
            "intel": "docker run --device /dev/dri IMAGE",
        }.get(d.vendor, "advisor probe")
    if "permission" in why or "group" in why:
        return "sudo usermod -aG render,video $USER  # then log in again"
    if "mig" in why:
        return "sudo nvidia-smi mig -lgip  # which slices there can be; -cgi makes them"
    return _LISTERS.get(d.vendor, "advisor probe")


def limits(memory_bytes: int | None) -> list[Check]:
    """The limits that processes started from here have (``ulimit``); none where the system has no such limits."""
    if sys.platform == "win32":
        return []
    import resource

    no_limit = resource.RLIM_INFINITY
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    bad = []
    if files != no_limit and files < _FILES_WANTED:
        bad.append((f"{files} open files, {_FILES_WANTED} are wanted", f"ulimit -n {_FILES_WANTED}"))
    if processes != no_limit and processes < _PROCESSES_WANTED:
        told = f"{processes} processes and threads, {_PROCESSES_WANTED} are wanted"
        bad.append((told, f"ulimit -u {_PROCESSES_WANTED}"))
    if space != no_limit and (memory_bytes is None or space < memory_bytes):
        bad.append((f"{size(space)} of addresses: no larger model can be mapped", "ulimit -v unlimited"))
    if not bad:
        told = "any number" if files == no_limit else str(files)
        return [Check(name="limits", ok=True, message=f"{told} of open files; addresses without limit")]
    return [Check(name="limits", ok=False, message=f"limited to {what}", hint=mend) for what, mend in bad]


def port(s: Settings, own: set[int]) -> Check:
    """Whether the usual port is free; ``own``: those of advisor's deployments."""
    from advisor.deploy import ports

    usual = int(s.get("port"))
    if usual in own:
        return Check(name="port", ok=True, message=f"{usual} is a deployment's; the next one takes another")
    if not ports.is_taken(_LOOPBACK, usual):
        return Check(name="port", ok=True, message=f"{usual} is free")
    free = ports.choose(_LOOPBACK, usual, explicit=False, avoid=own)
    return Check(
        name="port",
        ok=None,
        message=f"{usual} is taken by another program; `advisor up` takes the next free one",
        hint=f"advisor up --port {free}",
    )


def builds(s: Settings, machine: Machine) -> list[Check]:
    """Whether the llama.cpp that is here reaches the devices that are here."""
    from advisor.api.providing import with_providers
    from advisor.backends.llama import providers

    vendors = sorted({d.vendor for d in machine.devices if d.unusable is None and not d.for_screens})
    if not vendors:
        return []
    whole = with_providers(machine, s)
    have = [f"{r.provider} ({', '.join(r.backends) or 'cpu'})" for r in whole.runtimes if r.runtime == "llama.cpp"]
    out = []
    for vendor in vendors:
        reached = providers.provided(whole, vendor)
        there = ", ".join(have) or "none yet"
        out.append(
            Check(
                name=f"llama.cpp for {vendor}",
                ok=True if reached else None,
                message=f"{counted(len(have), 'build')} here: {there}"
                + ("" if reached else f"; none reaches {vendor} devices, so they stay unused by GGUF plans"),
                hint=None if reached else "advisor env build llama.cpp --provider build",
            )
        )
    return out
