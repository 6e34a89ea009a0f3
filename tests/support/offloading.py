"""How many layers a device has room for: by the formulas, by the engine's dry load, and by loading for real."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from advisor.cost.llama_memory import memory
from advisor.cost.offload import gpu_layers_that_fit
from advisor.errors import AdvisorError
from advisor.execute.offload import Offload
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Memory, Settings
from advisor.planner.refining import Found, Range, most_that_fit
from tests.support import shapes

MIB = 1 << 20
# Nothing that is loaded here may take more: the software device would take all of the machine's memory.
LIMIT = 4 << 30
MACHINE = shapes.machine(shapes.gpu(name="llvmpipe", vendor="other", memory=2 << 30))
PLACES = ("gpu0", "host")
PROVIDER = "vulkan"  # the habits of the build in the environment


class File(NamedTuple):
    """A GGUF file and what it is."""

    path: Path
    model: ModelFacts
    tensors: tuple[TensorSpec, ...]
    fmt: str


def predict(file: File, settings: Settings) -> Memory:
    """Memory of a file that is loaded so, by the formulas."""
    return memory(
        file.model,
        file.tensors,
        fmt=file.fmt,
        settings=settings,
        machine=MACHINE,
        devices=PLACES,
        as_is=file.model.path is not None,
        provider=PROVIDER,
    )


def planned_layers(file: File, base: Settings, room: int) -> int:
    """Layers that fit ``room`` bytes by the formulas."""
    return gpu_layers_that_fit(
        file.model,
        file.tensors,
        fmt=file.fmt,
        settings=base,
        machine=MACHINE,
        device="gpu0",
        as_is=file.model.path is not None,
        provider=PROVIDER,
        room=room,
    )


def asked(offload: Offload, file: File, base: Settings, range_: Range, room: int) -> Found | None:
    """The most of ``range_`` that fits ``room`` bytes by the engine's dry loads."""
    return most_that_fit(
        lambda n: offload.dry(file.path, range_.settings(base, n)).on_device(),
        planned=range_.planned,
        least=range_.least,
        most=range_.most,
        room=room,
    )


def asked_layers(offload: Offload, file: File, base: Settings, planned: int, room: int) -> int:
    """The most layers that fit ``room`` bytes by the engine's dry loads, looked for from ``planned`` on."""
    found = asked(offload, file, base, Range(planned, 1, file.model.layers + 1, experts=False), room)
    assert found is not None
    return found.layers or 0


def loads(offload: Offload, file: File, settings: Settings, room: int) -> bool:
    """Whether it loads where the device has ``room`` bytes for the engine's buffers.

    The software device's memory is the process's own: what this load takes beside the device's buffers is measured
    without a limit, and granted on top.
    """
    free = offload.load(file.path, settings, limit_bytes=LIMIT)
    try:
        offload.load(file.path, settings, limit_bytes=free.address_space_bytes - free.on_device() + room + (MIB >> 1))
    except AdvisorError as e:
        assert e.code == "out-of-memory", e
        return False
    return True


def most_that_load(offload: Offload, file: File, base: Settings, start: int, room: int) -> int:
    """The most layers that load, tried one by one from ``start``, which loads."""
    most = start
    while most < file.model.layers + 1 and loads(
        offload, file, msgspec.structs.replace(base, gpu_layers=most + 1), room
    ):
        most += 1
    return most
