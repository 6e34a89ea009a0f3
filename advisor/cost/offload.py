"""How many layers fit on a device."""

from __future__ import annotations

import msgspec

from advisor.cost.gguf_file import weight_map
from advisor.cost.llama_memory import memory
from advisor.cost.placement import HOST, device_of
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings

_MARGIN = 256 << 20  # left free for what else the device does: half of it a desktop's


def gpu_layers_that_fit(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    fmt: str,
    settings: Settings,
    machine: Machine,
    device: str,
    imatrix: bool = False,
    as_is: bool | None = None,
    provider: str = "wheel",
) -> int:
    """The largest ``gpu_layers`` whose upper estimate fits the memory that ``device`` grants.

    Args:
        model: architecture facts.
        tensors: the model's tensors.
        fmt: GGUF file type.
        settings: everything but ``gpu_layers``, which is tried.
        machine: where the device is.
        device: its key.
        imatrix: an importance matrix is used.
        as_is: the model's own file is served.
        provider: as for ``llama_memory.memory``.

    Returns:
        0 (nothing fits, or the device's memory is unknown) up to layers + 1 (output matrix included).

    Raises:
        KeyError: an unknown device.
    """
    found = device_of(machine, device)
    if found is None:
        return 0
    room = found.memory.usable_bytes or found.memory.total_bytes
    if found.memory.free_bytes is not None:
        room = min(room or found.memory.free_bytes, found.memory.free_bytes)
    if not room:
        return 0
    room -= min(_MARGIN, room // 16)

    def fits(n: int) -> bool:
        tried = msgspec.structs.replace(settings, gpu_layers=n)
        need = memory(
            model,
            tensors,
            fmt=fmt,
            settings=tried,
            machine=machine,
            devices=(device, HOST),
            imatrix=imatrix,
            as_is=as_is,
            provider=provider,
        )
        return need.by_device[device].high <= room

    low, high = 0, len(weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is).layers) + 1
    while low < high:  # what is needed grows with each layer
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
