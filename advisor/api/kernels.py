"""Kernels that a runtime was seen to lack on this machine: what is learned, and for how long it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advisor.api import learning
from advisor.errors import AdvisorError
from advisor.facts.recovery import KernelLesson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.facts.machine import Machine
    from advisor.facts.plan import Plan
    from advisor.facts.recovery import Diagnosis
    from advisor.planner.lacking import Lacking
    from advisor.planner.lessons import Lessons
    from advisor.settings import Settings

_HOST: Final = "host"
_CPU: Final = "cpu"
_LLAMA: Final = "llama.cpp"
_WHEEL: Final = "wheel"
_WIDTH: Final = 160
# Variants of an environment by the maker of the devices; the first one is for processors.
_VARIANTS: Final = {"nvidia": "cuda", "amd": "rocm"}


def lesson_of(plan: Plan, found: Diagnosis, machine: Machine, provider: str | None) -> KernelLesson:
    """What is learned of a plan whose server ended for lack of a kernel. ``provider``: the one that served."""
    from advisor.execute.measurements import now
    from advisor.facts.text import clean
    from advisor.planner.token_work import device_names

    keys = plan.devices or (_HOST,)
    lacked = (found.device,) if found.device in keys and found.device != _HOST else keys
    return KernelLesson(
        runtime=plan.runtime,
        engine=_build(machine, plan.runtime, provider, _kind(machine, device_names(machine, keys))),
        method=plan.method,
        format=None if plan.method == "gguf" else plan.format,
        devices=device_names(machine, lacked),
        plan=plan.id,
        code=found.code,
        evidence=clean(next(iter(found.evidence), found.message), _WIDTH),
        learned_at=now(),
    )


def teach(settings: Settings, machine: Machine, lesson: KernelLesson) -> str | None:
    """Keep a lesson in the place of an earlier one on the same; what went wrong in words."""
    from advisor.execute import measurements

    try:
        measurements.add(settings, machine, kernels=(lesson,))
    except AdvisorError as e:
        return f"What was learned of the kernels is not kept: {e.message}"
    return None


def holding(lessons: Lessons, machine: Machine) -> Lacking | None:
    """The lessons that hold on ``machine``, ``None`` where none does.

    One holds while every build of the runtime that would serve there is one that was seen to lack the kernels: another
    version, another provider that is there or that ``up`` would install, and it is void.
    """
    if not lessons.kernels:
        return None
    from advisor.planner.lacking import Lacking

    found = tuple(x for x in lessons.kernels if _holds(x, lessons.kernels, machine))
    return Lacking(found, machine) if found else None


def builds_lacking(settings: Settings, machine: Machine, plan: Plan) -> frozenset[str]:
    """The builds of the plan's runtime, by provider and version, whose kernels lacked for it before."""
    lessons = learning.lessons(settings, machine, here=True)
    if lessons is None or not lessons.kernels:
        return frozenset()
    from advisor.planner.lacking import speaks_of
    from advisor.planner.token_work import device_names

    names = device_names(machine, plan.devices or (_HOST,))
    told = (x for x in lessons.kernels if speaks_of(x, plan.runtime, plan.method, plan.format, names))
    return frozenset(x.engine for x in told)


def _holds(lesson: KernelLesson, kept: Sequence[KernelLesson], machine: Machine) -> bool:
    names = {_CPU, *(d.name for d in machine.devices)}
    if not set(lesson.devices) <= names:
        return False
    same = (lesson.runtime, lesson.method, lesson.format, lesson.devices)
    seen = {x.engine for x in kept if (x.runtime, x.method, x.format, x.devices) == same}
    return lesson.engine in _builds(machine, lesson.runtime, lesson.devices) <= seen


def _build(machine: Machine, runtime: str, provider: str | None, kind: str) -> str:
    """The build of a provider that serves plans for devices of a kind."""
    if runtime == _LLAMA and (provider, kind) == (_WHEEL, _CPU):
        return _wheel()
    there = (b for b in _installed(machine, runtime, kind) if provider in (None, b.partition(" ")[0]))
    found = next(there, None)
    if found is not None:
        return found
    return learning.engine_label(machine, runtime, provider) if provider else _environment(machine, runtime, kind)


def _builds(machine: Machine, runtime: str, devices: Sequence[str]) -> frozenset[str]:
    """The builds of a runtime that would serve plans for devices; one that ``up`` would have to compile or install for
    them goes by its provider alone."""
    kind = _kind(machine, devices)
    found = set(_installed(machine, runtime, kind))
    if runtime != _LLAMA:
        return frozenset(found or {_environment(machine, runtime, kind)})
    there = {b.partition(" ")[0] for b in found}
    if kind == _CPU:
        found.add(_wheel())  # for every processor, and quickly installed
    else:
        from advisor.backends.llama.providers import drives

        if _WHEEL not in there and machine.prebuilt is not None and kind in machine.prebuilt.vendors:
            found.add(_WHEEL)
        if "build" not in there and drives(kind, machine.buildable):
            found.add("build")
    return frozenset(found)


def _environment(machine: Machine, runtime: str, kind: str) -> str:
    """The managed environment that serves plans for devices of a kind: version, and the beginning of the digest of all
    its packages, some of which bring kernels."""
    from advisor.backends.pins import pins, variants

    try:
        variant = _VARIANTS.get(kind)
        chosen = pins(runtime, variant if variant in variants(runtime) else None)
    except AdvisorError:  # no environment of advisor's
        return learning.engine_label(machine, runtime, None)
    version = next((p.version for p in chosen.packages if p.name.startswith(runtime)), "")
    return f"environment {version} {chosen.digest[:8]}"


def _wheel() -> str:
    """The wheel of llama.cpp for processors."""
    from advisor.backends.pins import pins

    return f"{_WHEEL} {pins(_LLAMA).version_of('xllamacpp')}"


def _installed(machine: Machine, runtime: str, kind: str) -> tuple[str, ...]:
    """The builds of a runtime on the machine, for devices of a kind, by provider and version as ``probe`` has them."""
    mine = [r for r in machine.runtimes if r.runtime == runtime]
    if runtime == _LLAMA:
        from advisor.backends.llama.providers import drives

        mine = [r for r in mine if drives(kind, r.backends)]
        if kind == _CPU and not (machine.prebuilt is not None and machine.prebuilt.layers_on_host):
            # A wheel for devices that computes nothing on this processor.
            mine = [r for r in mine if r.provider != _WHEEL or r.backends == (_CPU,)]
    return tuple(f"{r.provider} {r.version}" for r in mine)


def _kind(machine: Machine, devices: Sequence[str]) -> str:
    """``cpu``, the vendor of the accelerators that are named, or ``mixed``."""
    vendors = {d.vendor for d in machine.devices if d.name in devices}
    return _CPU if not vendors else next(iter(vendors)) if len(vendors) == 1 else "mixed"
