"""How many layers, or the experts of how many layers, a device has room for."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from advisor.cost.device_work import device_work, habits
from advisor.cost.gguf_file import weight_map
from advisor.cost.kv import cells
from advisor.cost.llama_memory import device_context, memory
from advisor.cost.placement import HOST, device_of, place
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Settings
from advisor.facts.quantity import Quantity

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
    room: int | None = None,
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
        room: bytes for the engine's own buffers; by default what the device grants, less what its driver takes and a
            margin.

    Returns:
        0 (nothing fits, or the device's memory is unknown) up to layers + 1 (output matrix included).

    Raises:
        KeyError: an unknown device.
    """
    count = len(weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is).layers)
    fits = _fits(model, tensors, fmt, machine, device, imatrix, as_is, provider, room)
    if fits is None:
        return 0
    low, high = 0, count + 1
    while low < high:  # what is needed grows with each layer
        middle = (low + high + 1) // 2
        if fits(msgspec.structs.replace(settings, gpu_layers=middle)):
            low = middle
        else:
            high = middle - 1
    return low


def expert_layers_on_host(
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
    room: int | None = None,
) -> int | None:
    """The smallest ``cpu_moe_layers`` with which all the rest of the model fits ``device``.

    Of every token few experts are read but all of the rest, so the rest belongs on the device first.

    Args:
        as ``gpu_layers_that_fit``; ``settings`` are tried with all layers on the device.

    Returns:
        0 where everything fits, ``None`` where the model has no experts, or the rest alone does not fit.

    Raises:
        KeyError: an unknown device.
    """
    weights = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
    fits = _fits(model, tensors, fmt, machine, device, imatrix, as_is, provider, room)
    if fits is None or not any(weights.experts):
        return None
    count = len(weights.layers)
    all_layers = msgspec.structs.replace(settings, gpu_layers=count + 1)
    if fits(all_layers):
        return 0
    if not fits(msgspec.structs.replace(all_layers, cpu_moe_layers=count)):
        return None
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        if fits(msgspec.structs.replace(all_layers, cpu_moe_layers=middle)):
            high = middle
        else:
            low = middle + 1
    return low


def granted(machine: Machine, device: str) -> int | None:
    """Bytes of a device's memory that a plan may fill: what a process gets and what is free now, less a margin.

    ``None`` where the device's memory is unknown, and for the host.

    Raises:
        KeyError: an unknown device.
    """
    found = device_of(machine, device)
    if found is None:
        return None
    known = [v for v in (found.memory.usable_bytes, found.memory.free_bytes) if v is not None]
    size = min(known) if known else found.memory.total_bytes
    return size - min(_MARGIN, size // 16) if size else None


def device_buffer(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    fmt: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    device: str,
    imatrix: bool = False,
    as_is: bool | None = None,
    provider: str = "wheel",
) -> Quantity:
    """Of what a device needs, the work buffer alone; arguments as for ``llama_memory.memory``.

    Raises:
        KeyError: an unknown device.
    """
    weights = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
    at = place(len(weights.layers), settings, machine, devices)
    habit = habits(provider, settings.ubatch)
    return device_work(model, tensors, settings, cells(model, settings), weights, at, device, habit)


def engine_buffers(need: Quantity, machine: Machine, device: str) -> Quantity:
    """Of what a device needs (``Memory.by_device``), what the engine itself allocates there: without the driver's part.

    Raises:
        KeyError: an unknown device.
    """
    driver = device_context(machine, device)
    return msgspec.structs.replace(
        need, value=need.value - driver.value, low=need.low - driver.low, high=need.high - driver.high
    )


def _fits(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    fmt: str,
    machine: Machine,
    device: str,
    imatrix: bool,
    as_is: bool | None,
    provider: str,
    room: int | None,
) -> Callable[[Settings], bool] | None:
    """Whether the upper estimate of settings fits; ``None`` where the device's memory is unknown."""
    if device_of(machine, device) is None:
        return None
    size = room if room is not None else granted(machine, device)
    if size is None:
        return None

    def fits(tried: Settings) -> bool:
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
        ).by_device[device]
        return (need.high if room is None else engine_buffers(need, machine, device).high) <= size

    return fits
