"""Which layers lie on which device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from advisor.facts.machine import Device, Machine
from advisor.facts.plan import Settings

HOST = "host"


class Placement(NamedTuple):
    """``layers[i]`` is the device key of layer ``i``, ``output`` that of the output matrix."""

    layers: tuple[str, ...]
    output: str
    experts_on_host: frozenset[int]


def device_of(machine: Machine, key: str) -> Device | None:
    """The device of that key, ``None`` for the host.

    Raises:
        KeyError: the machine has no such device.
    """
    if key == HOST:
        return None
    for device in machine.devices:
        if device.id == key:
            return device
    raise KeyError(f"the machine has no device {key}")


def place(count: int, settings: Settings, machine: Machine, devices: Sequence[str]) -> Placement:
    """Lay out ``count`` layers as llama.cpp does.

    The layers counted by ``gpu_layers`` are the last ones, the output matrix first of all: with ``gpu_layers`` 1 only
    the output is on the device. Without ``host`` among the devices everything is offloaded. Several devices share the
    offloaded layers by ``tensor_split``, or by their memory.
    """
    gpus = [d for d in devices if d != HOST]
    if not gpus:
        return Placement((HOST,) * count, HOST, frozenset())
    offloaded = count + 1 if HOST not in devices else max(0, min(settings.gpu_layers, count + 1))
    start = count + 1 - offloaded
    shares = list(settings.tensor_split or ())[: len(gpus)]
    if len(shares) < len(gpus) or sum(shares) <= 0:
        shares = [float(_memory(machine, g)) for g in gpus]
    edges, run = [], 0.0
    for share in shares:
        run += share
        edges.append(run / (sum(shares) or 1.0))

    def where(i: int) -> str:
        if i < start:
            return HOST
        at = (i - start) / offloaded
        return next((g for g, edge in zip(gpus, edges, strict=True) if at < edge), gpus[-1])

    on_host = frozenset(range(min(settings.cpu_moe_layers, count)))
    return Placement(tuple(where(i) for i in range(count)), where(count), on_host)


def _memory(machine: Machine, key: str) -> int:
    device = device_of(machine, key)
    if device is None:
        return 0
    memory = device.memory
    known = [v for v in (memory.usable_bytes, memory.free_bytes) if v is not None]
    return max(1, min(known) if known else memory.total_bytes or 1)
