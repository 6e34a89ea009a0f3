"""Which devices a server may see: the ones that its plan is for, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.backends.llama.binary import BinaryDevice
from advisor.facts.machine import Device, Vulkan


def environment(machine: Sequence[Device], keys: Sequence[str]) -> dict[str, str]:
    """Variables that show a server the devices ``keys`` of ``machine`` only, in that order.

    Devices are named by UUID, which means the same whatever the order in which a runtime counts them, and names a MIG
    slice too. Nothing is set where all of a vendor's devices are meant, unless one of them is a slice (CUDA shows one
    slice and nothing beside it) or they differ (CUDA counts the fastest first, and shares are told in order), and
    nothing where a UUID is not known.

    Sources: CUDA Programming Guide, "CUDA Environment Variables"; ROCm documentation, "GPU isolation techniques".
    """
    used = [d for key in keys for d in machine if d.id == key]
    out: dict[str, str] = {}
    for vendor, variable in (("nvidia", "CUDA_VISIBLE_DEVICES"), ("amd", "ROCR_VISIBLE_DEVICES")):
        mine = [d for d in used if d.vendor == vendor]
        others = [d for d in machine if d.vendor == vendor and d not in mine]
        split = any(d.mig is not None for d in mine) or len({d.name for d in mine}) > 1
        uuids = [d.uuid for d in mine if d.uuid]
        if mine and (others or split) and len(uuids) == len(mine):
            out[variable] = ",".join(uuids)
    return out


def vulkan_names(vulkan: Vulkan | None, keys: Sequence[str], seen: Sequence[BinaryDevice]) -> tuple[str, ...]:
    """Names (``Vulkan0``) of the devices ``keys`` among those that a build of llama.cpp sees through Vulkan.

    Vulkan calls a device the same in every program, so that names tell them apart; equal cards keep their order. Empty
    where all that the build sees is meant, in its order, where it sees others than Vulkan's, and where a device is not
    found.
    """
    if any(d.backend != "vulkan" for d in seen):
        return ()
    shown = [v for v in (vulkan.devices or () if vulkan is not None else ()) if v.kind != "cpu"]
    left, names = list(seen), {}
    for one in shown:
        same = next((d for d in left if d.description == one.name), None)
        if same is not None:
            left.remove(same)
            names[one.device] = same.name
    found = tuple(names[key] for key in keys if key in names)
    wanted = [key for key in keys if key != "host"]
    return found if len(found) == len(wanted) and found != tuple(d.name for d in seen) else ()
