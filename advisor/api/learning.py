"""What was measured on this machine, as later predictions use it; and what ``up`` adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.facts.plan import Warning_

if TYPE_CHECKING:
    from collections.abc import Callable

    from advisor.facts.bench import MeasuredEngine, Measurement, ThreadChoice
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts
    from advisor.facts.plan import Plan
    from advisor.facts.recovery import MemoryLesson
    from advisor.facts.results import Deployment, Receipt
    from advisor.planner.costing import CostFn
    from advisor.planner.learned import Learned
    from advisor.planner.lessons import Lessons
    from advisor.settings import Settings


def learned(settings: Settings, machine: Machine, *, here: bool) -> tuple[Learned | None, tuple[Warning_, ...]]:
    """What may correct predictions for ``machine``: nothing unless it is this one as it is."""
    from advisor.execute import measurements

    if not here or not measurements.path_of(settings, machine).exists():
        return None, ()
    found = measurements.load(settings, machine)
    if not found.kept.speeds:
        return None, found.warnings
    from advisor.planner.learned import Learned

    known = Learned(found.kept.speeds, machine, threads=found.kept.threads)
    return known if known else None, found.warnings


def engines(settings: Settings, machine: Machine) -> tuple[tuple[MeasuredEngine, ...], tuple[Warning_, ...]]:
    """The engines that were measured on this machine, for ``probe``."""
    from advisor.execute import measurements

    found = measurements.load(settings, machine)
    return measurements.engines(found.kept, measurements.path_of(settings, machine)), found.warnings


def engine_label(machine: Machine, runtime: str, provider: str | None) -> str:
    """Which build of a runtime: its provider and version as ``probe`` has them, else the pinned version."""
    for r in machine.runtimes:
        if r.runtime == runtime and provider in (None, r.provider):
            return f"{r.provider} {r.version}"
    from advisor.backends.pins import pins
    from advisor.errors import AdvisorError

    try:
        version = pins(runtime).version_of("xllamacpp" if runtime == "llama.cpp" else runtime)
    except (AdvisorError, KeyError):
        version = ""
    return f"{provider or 'environment'} {version or 'of unknown version'}"


def of_receipt(
    plan: Plan, model: ModelFacts, machine: Machine, deployment: Deployment, receipt: Receipt, *, depth: int
) -> Measurement | None:
    """The receipt of a launch as a measurement; ``None`` where it measured no speed, or another's server."""
    from advisor.execute.measurements import now
    from advisor.facts.bench import ENOUGH_CPU_SERVER, Measurement
    from advisor.model.tensors import tensors
    from advisor.planner.token_work import device_names, shape_of, work_of

    measured = receipt.measured
    if plan.runtime == "ollama" or (measured.decode is None and measured.prefill is None):
        return None
    work = work_of(
        model,
        tensors(model),
        method=plan.method,
        fmt=plan.made_as,
        settings=plan.settings,
        depth=depth,
        imatrix=plan.imatrix,
        as_is=True if plan.method == "gguf" and plan.source == "as-is" else None,
    )
    return Measurement(
        runtime=plan.runtime,
        engine=engine_label(machine, plan.runtime, deployment.provider),
        method=plan.method,
        format=plan.made_as,
        model=model.name,
        shape=shape_of(model),
        devices=device_names(machine, plan.devices or ("host",)),
        threads=plan.settings.threads,
        depth=depth,
        kv_type=plan.settings.kv_type,
        work=work,
        decode=measured.decode,
        prefill=measured.prefill,
        origin="up",
        gpu_layers=plan.settings.gpu_layers,
        cpu_moe_layers=plan.settings.cpu_moe_layers,
        runs=2,
        busy=receipt.cpu_share is not None and receipt.cpu_share < ENOUGH_CPU_SERVER,
        measured_at=now(),
    )


def from_receipt(
    settings: Settings,
    plan: Plan,
    model: ModelFacts,
    machine: Machine,
    deployment: Deployment,
    receipt: Receipt,
    *,
    depth: int,
) -> str | None:
    """Keep the receipt of a launch as a measurement; what went wrong in words, because the launch did not."""
    from advisor.errors import AdvisorError

    try:
        found = of_receipt(plan, model, machine, deployment, receipt, depth=depth)
    except (AdvisorError, KeyError) as e:  # a format that cannot be sized teaches nothing
        return f"Later predictions do not learn from this launch: {e}."
    return keep(settings, machine, (found,)) if found is not None else None


def keep(
    settings: Settings,
    machine: Machine,
    speeds: tuple[Measurement, ...] = (),
    threads: tuple[ThreadChoice, ...] = (),
) -> str | None:
    """Keep what was measured by the way; what went wrong in words."""
    from advisor.execute import measurements

    return measurements.keep(settings, machine, speeds, threads)


def lessons(settings: Settings, machine: Machine, *, here: bool) -> Lessons | None:
    """What servers that failed taught about this machine's memory and its kernels; ``None`` where none did, and for
    other machines."""
    from advisor.execute import measurements

    if not here or not measurements.path_of(settings, machine).exists():
        return None
    kept = measurements.load(settings, machine).kept
    if not kept.memory and not kept.kernels:
        return None
    from advisor.planner.lessons import Lessons

    found = Lessons(kept.memory, boot=this_boot() if kept.memory else "", kernels=kept.kernels)
    return found if found else None


def costs(settings: Settings, facts: ModelFacts, machine: Machine, lessons: Lessons | None) -> CostFn | None:
    """Costs with what was measured of the model and learned of the machine; ``None``: as the formulas have them."""
    from advisor.api import qualities

    base = qualities.cost_function(settings, facts)
    return base if lessons is None else lessons.cost_function(machine, base)


def this_boot() -> str:
    """What names this boot; empty where the system has no name for it."""
    from advisor.probes.boot import boot_id
    from advisor.probes.source import LiveSource

    return boot_id(LiveSource())


def teach(settings: Settings, machine: Machine, lesson: MemoryLesson) -> str | None:
    """Keep a lesson in the place of an earlier one on the same; what went wrong in words."""

    def added(kept: tuple[MemoryLesson, ...]) -> tuple[MemoryLesson, ...]:
        others = tuple(
            x
            for x in kept
            if (x.runtime, x.device, x.ratio is None) != (lesson.runtime, lesson.device, lesson.ratio is None)
        )
        return (*others, lesson)

    return _remember(settings, machine, added)


def disprove(settings: Settings, machine: Machine, plan: Plan, receipt: Receipt) -> str | None:
    """Forget ceilings of the host's memory that this launch has gone beyond; what went wrong in words."""
    measured = receipt.measured.memory
    if measured is None or learned_nothing(settings, machine):
        return None
    from advisor.planner.lessons import lifted

    return _remember(settings, machine, lambda kept: lifted(kept, device="host", bytes_=int(measured.value)))


def learned_nothing(settings: Settings, machine: Machine) -> bool:
    """Whether nothing is known of this machine's memory."""
    from advisor.execute import measurements

    return not measurements.path_of(settings, machine).exists() or not measurements.load(settings, machine).kept.memory


def _remember(
    settings: Settings,
    machine: Machine,
    change: Callable[[tuple[MemoryLesson, ...]], tuple[MemoryLesson, ...]],
) -> str | None:
    from advisor.errors import AdvisorError
    from advisor.execute import measurements

    try:
        measurements.add(settings, machine, memory=change)
    except AdvisorError as e:
        return f"What was learned of the memory is not kept: {e.message}"
    return None
