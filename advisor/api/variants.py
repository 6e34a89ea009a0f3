"""Which environment works here, and on which devices: the variant for this machine, and what a process may see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advisor.api import making

if TYPE_CHECKING:
    from advisor.execute.envs import Env
    from advisor.execute.steps import Steps
    from advisor.settings import Settings


def variant_of(settings: Settings, name: str, *, on_cpu: bool = False) -> str | None:
    """The variant of an environment to work with; ``None`` where there is one for all machines.

    ``on_cpu``: for a plan without devices. ROCm's is taken only where it is built already: its packages are on indexes
    that a person has to name first, and without them quantizing works on the CPU.

    Raises:
        AdvisorError: ``backend-not-found``.
    """
    from advisor.api.context import this_machine
    from advisor.backends import pins, variants
    from advisor.execute import envs

    best = variants.best(name, this_machine(settings)[0])
    if best is None or (best == "cuda" and not on_cpu):
        return best
    there = best == "rocm" and not on_cpu and envs.find(name, settings=settings, variant=best) is not None
    return best if there else pins.BASE_VARIANT


def environment_of(settings: Settings, steps: Steps, name: str, *, on_cpu: bool = False) -> Env:
    """The managed environment of a quantizer or runtime, in the variant of ``variant_of``, as a step.

    Raises:
        AdvisorError: as ``making.environment``.
    """
    return making.environment(settings, steps, name, variant=variant_of(settings, name, on_cpu=on_cpu))


def selection_of(settings: Settings, devices: Sequence[str] = ()) -> dict[str, str]:
    """Variables that show a process those devices of this machine only; see ``backends.selection``.

    Without any, as for quantizing apart from a plan or for a CPU, it sees the device with the most free memory:
    libraries that quantize take the first that they see.
    """
    from advisor.api.context import this_machine
    from advisor.backends import selection

    machine = this_machine(settings)[0]
    named = [d for d in devices if d != "host"]
    if not named:
        usable = [d for d in machine.devices if d.vendor in ("nvidia", "amd") and d.unusable is None]
        best = max(usable, key=lambda d: d.memory.free_bytes or d.memory.usable_bytes or 0, default=None)
        named = [best.id] if best is not None else []
    return selection.environment(machine.devices, named)
