"""Which devices a server may see: the ones that its plan is for, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.facts.machine import Device


def environment(machine: Sequence[Device], keys: Sequence[str]) -> dict[str, str]:
    """Variables that show a server the devices ``keys`` of ``machine`` only, in that order.

    Devices are named by UUID, which means the same whatever the order in which a runtime counts them, and names a MIG
    slice too. Nothing is set where all of a vendor's devices are meant, unless one of them is a slice (CUDA shows one
    slice and nothing beside it), and nothing where a UUID is not known.

    Sources: CUDA Programming Guide, "CUDA Environment Variables"; ROCm documentation, "GPU isolation techniques".
    """
    used = [d for key in keys for d in machine if d.id == key]
    out: dict[str, str] = {}
    for vendor, variable in (("nvidia", "CUDA_VISIBLE_DEVICES"), ("amd", "ROCR_VISIBLE_DEVICES")):
        mine = [d for d in used if d.vendor == vendor]
        others = [d for d in machine if d.vendor == vendor and d not in mine]
        split = any(d.mig is not None for d in mine)
        uuids = [d.uuid for d in mine if d.uuid]
        if mine and (others or split) and len(uuids) == len(mine):
            out[variable] = ",".join(uuids)
    return out
