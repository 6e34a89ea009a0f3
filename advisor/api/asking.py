"""What the engine itself says of a plan's memory, asked before anything is launched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from advisor.api import planning
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.facts.plan import EngineFit, Plan
from advisor.facts.plan import Settings as RunSettings

if TYPE_CHECKING:
    from advisor.api.making import Made
    from advisor.api.providing import Serving
    from advisor.backends.llama.binary import Binary
    from advisor.execute.answers import Answers
    from advisor.execute.envs import Env
    from advisor.execute.offload import Offload
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts, TensorSpec
    from advisor.facts.quantity import Quantity
    from advisor.settings import Settings

    Needs = dict[str, Quantity]
    Ask = Callable[[RunSettings], Needs | None]

_UNASKED = "the engine could not be asked; the formulas stand"


def oracle(settings: Settings, *, ask: bool = False) -> Answers:
    """What engines have said of models' memory, for ``recommend`` and ``estimate``; new questions only with ``ask``.

    Raises:
        AdvisorError: when it is asked: ``env-failed``, nobody is on this machine who could be.
    """
    from advisor.execute.answers import Answers, Engine

    def find() -> tuple[Engine, ...]:
        from advisor.execute import engines

        found = engines.engines(settings)
        if ask and not found:
            raise engines.none_installed()
        return found

    return Answers(settings, find, may_ask=ask)


def own_fit(
    settings: Settings,
    model: ModelFacts,
    fmt: str,
    wanted: RunSettings,
    *,
    artifact: Path | None = None,
    binary: Binary | None = None,
    cancel: Cancel | None = None,
    variables: dict[str, str] | None = None,
) -> EngineFit:
    """What llama.cpp's own fit chooses for a model in a GGUF format on this machine, to stand beside the plan.

    Args:
        fmt: the format, perhaps with types of named tensors.
        artifact: the file, where it is there.
        binary: the build that serves; without it whatever is installed here is asked.

    Raises:
        AdvisorError: ``interrupted``.
    """
    from advisor.execute import engines, envs
    from advisor.execute import own_fit as fits

    return fits.ask(
        model,
        fmt,
        wanted,
        library=envs.find(engines.SERVING_ENV, settings=settings) if binary is None else None,
        programs=(binary,) if binary is not None else tuple(engines.programs(settings)),
        folder=settings.paths.logs / "steps",
        artifact=artifact,
        cancel=cancel,
        variables=variables,
    )


def own_fit_step(
    settings: Settings, steps: Steps, plan: Plan, model: ModelFacts, made: Made | None = None, by: Serving | None = None
) -> None:
    """What llama.cpp's own fit chooses beside the plan, as a step; nothing for other runtimes, which have none.

    Args:
        made: the file that is to be served; without it a header of the model's facts is asked about.
        by: what serves; without it whatever is installed here is asked.
    """
    if plan.runtime != "llama.cpp" or plan.method != "gguf":
        return
    from advisor.backends import selection
    from advisor.execute import own_fit as fits
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[EngineFit]:
        found = own_fit(
            settings,
            model,
            plan.made_as,
            plan.settings,
            artifact=made.artifact if made is not None else None,
            binary=by.binary if by is not None else None,
            cancel=steps.cancel,
            variables=selection.environment(planning.own_machine(settings).devices, plan.devices) if by else None,
        )
        return Outcome(found, detail=fits.words(found, plan.settings, model.blocks + 1))

    steps.do(Step("engine-fit", run))


def corrected(
    settings: Settings,
    steps: Steps,
    plan: Plan,
    model: ModelFacts,
    made: Made,
    env: Env,
    serving: Serving,
    *,
    memory: bool,
) -> Plan:
    """The plan with the engine's own word on its memory, as a step; refused where it no longer fits.

    Of a model that lies on devices in part, as many layers go there as the engine finds room for.

    Args:
        settings: advisor's own.
        steps: where the step is told.
        plan: as it was made by the formulas. It keeps its id.
        model: what it is a plan of.
        made: the file to be served.
        env: the environment ``llama.cpp``.
        serving: what serves.
        memory: the memory is still to be had, not held by a server of this plan that runs already.

    Raises:
        AdvisorError: ``not-enough-memory``, ``interrupted``, ``env-failed``.
    """
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[Plan]:
        if plan.settings.gpu_layers == 0:
            new, detail = _on_host(settings, steps, plan, model, made.artifact, env, serving)
        elif not memory:
            return Outcome(plan, detail="it runs already, with the memory that it takes")
        else:
            new, detail = _on_devices(settings, steps, plan, model, made.artifact, serving)
        if memory and new is not plan:
            from advisor.execute import preflight

            preflight.check_memory(new, planning.own_machine(settings))
        return Outcome(new, detail=detail)

    return steps.do(Step("ask-engine", run))


def _on_host(
    settings: Settings, steps: Steps, plan: Plan, model: ModelFacts, artifact: Path, env: Env, serving: Serving
) -> tuple[Plan, str]:
    """The plan corrected by a dry load on the CPU, and what came of it in words; the answer is kept for other plans.

    The library of the environment says more than the tool of a program, which is asked where the library does not know
    the model.
    """
    from advisor.execute import engines
    from advisor.execute.oracle import DryLoad
    from advisor.planner.correction import corrected

    logs = settings.paths.logs / "steps"
    answer = DryLoad(env, logs / "dryload.log", steps.cancel).file(artifact, plan.settings)
    if answer is not None:
        oracle(settings).keep(engines.library_name(env.digest), model, plan.made_as, plan.settings, answer)
    elif serving.binary is not None and not serving.binary.devices:
        answer = engines.FitTool(serving.binary, logs / "fit.log", steps.cancel).file(artifact, model, plan.settings)
    if answer is None:
        return plan, _UNASKED
    new = corrected(plan, answer)
    before, after = plan.memory.total.value, new.memory.total.value
    return new, f"the engine takes {after / 2**20:.0f} MiB; the formulas said {before / 2**20:.0f} MiB"


def _on_devices(
    settings: Settings, steps: Steps, plan: Plan, model: ModelFacts, artifact: Path, serving: Serving
) -> tuple[Plan, str]:
    """The plan with what the engine finds room for on its devices, and that in words."""
    from advisor.model.tensors import tensors
    from advisor.planner import refining

    machine, parts = planning.own_machine(settings), tensors(model)
    ask = _asker(settings, steps, _Case(plan, model, parts, machine, artifact), serving)
    if ask is None:
        return plan, _UNASKED
    found, detail = best(plan, ask, model, parts, machine)
    needs = ask(found)
    if needs is None:
        return plan, _UNASKED
    said = "; ".join(f"{key}: {need.value / 2**20:.0f} MiB" for key, need in needs.items())
    return (
        refining.refined(plan, found, needs, model=model, tensors=parts, machine=machine),
        f"{detail}; {said}" if detail else said,
    )


def best(
    plan: Plan, ask: Ask, model: ModelFacts, tensors: tuple[TensorSpec, ...], machine: Machine
) -> tuple[RunSettings, str]:
    """The settings with the most layers, or experts of layers, for which ``ask`` finds room on the devices of the plan,
    and that in words; the plan's own settings where nothing may move or where the engine does not say.

    Raises:
        AdvisorError: ``not-enough-memory``, what must be there does not fit what is free now.
    """
    from advisor.planner import refining

    rooms = {key: refining.room(machine, key) for key in refining.accelerators(plan)}
    range_ = refining.movable(plan, model, tensors)
    if range_ is None:
        needs = ask(plan.settings)
        short = {} if needs is None else _short(needs, machine)
        if needs is not None and short:
            raise _refused(plan, needs, short)
        return plan.settings, ""
    if any(size is None for size in rooms.values()):
        return plan.settings, "the memory of a device is not known; the formulas stand"

    def shortage(n: int) -> int | None:
        """Bytes that the tightest device lacks; less than nothing where room is left."""
        needs = ask(range_.settings(plan.settings, n))
        return None if needs is None else max(int(needs[key].high) - (size or 0) for key, size in rooms.items())

    found = refining.most_that_fit(shortage, planned=range_.planned, least=range_.least, most=range_.most, room=0)
    if found is None:
        return plan.settings, _UNASKED
    if found.layers is None:
        least = ask(range_.settings(plan.settings, range_.least)) or {}
        raise _refused(plan, least, {key: size or 0 for key, size in rooms.items()})
    said = f"the engine has room for {range_.words(found.layers)}"
    said += ", as the formulas said" if found.layers == range_.planned else f"; the formulas said {range_.planned}"
    return range_.settings(plan.settings, found.layers), said


def _short(needs: Needs, machine: Machine) -> dict[str, int]:
    """Free bytes of each device that has less than what is needed there at the very least."""
    from advisor.cost.placement import device_of
    from advisor.planner.devices import device_capacity

    free = {key: device_capacity(device) for key in needs if (device := device_of(machine, key)) is not None}
    return {key: size for key, size in free.items() if size is not None and needs[key].low > size}


def _refused(plan: Plan, needs: Needs, rooms: dict[str, int]) -> AdvisorError:
    short = {key: need for key, need in needs.items() if need.high > rooms.get(key, need.high)}
    return AdvisorError(
        "not-enough-memory",
        f"The engine does not find room for the plan {plan.id} now: "
        + "; ".join(f"{k} needs {n.value / 2**20:.0f} of {rooms[k] / 2**20:.0f} MiB" for k, n in short.items()),
        hint=f"advisor recommend {plan.model} --context {max(512, plan.settings.context // 2)}",
        data={"devices": {key: int(need.value) for key, need in short.items()}},
    )


class _Case(NamedTuple):
    """What is asked about."""

    plan: Plan
    model: ModelFacts
    tensors: tuple[TensorSpec, ...]
    machine: Machine
    artifact: Path

    def work(self, wanted: RunSettings, key: str) -> Quantity:
        """The formula's work buffer on a device."""
        from advisor.cost.offload import device_buffer

        return device_buffer(
            self.model,
            self.tensors,
            fmt=self.plan.made_as,
            settings=wanted,
            machine=self.machine,
            devices=self.plan.devices,
            device=key,
            imatrix=self.plan.imatrix,
        )


def _asker(settings: Settings, steps: Steps, case: _Case, serving: Serving) -> Ask | None:
    """Whom to ask: the tool of the build that serves, else the library of the environment ``llama.cpp-vulkan`` where it
    is there; ``None`` without either. The same question is asked once."""
    from advisor.backends import selection
    from advisor.execute import envs, offload
    from advisor.execute.llama import fit

    if serving.binary is None:
        return None
    folder = settings.paths.logs / "steps"
    seen = selection.environment(case.machine.devices, case.plan.devices)
    if fit.TOOL in serving.binary.tools:
        ask = _fit_tool(serving.binary, steps, case, folder / "fit-params.log", seen)
    elif (env := envs.find(offload.ENV, settings=settings)) is not None:
        engine = offload.Offload(env, folder / "offload.log", steps.cancel, seen)
        ask = _dry_loads(serving.binary, engine, case)
    else:
        return None
    known: dict[RunSettings, Needs | None] = {}

    def once(wanted: RunSettings) -> Needs | None:
        if wanted not in known:
            known[wanted] = ask(wanted)
        return known[wanted]

    return once


def _fit_tool(binary: Binary, steps: Steps, case: _Case, log: Path, seen: dict[str, str]) -> Ask:
    """Asks ``llama-fit-params``, which names the devices in order, and the host last, in whole MiB."""
    from advisor.execute.llama import fit
    from advisor.planner import refining

    keys = refining.accelerators(case.plan)

    def ask(wanted: RunSettings) -> Needs | None:
        found = fit.ask(binary, case.artifact, wanted, log=log, cancel=steps.cancel, variables=seen)
        rows = [row for row in found or () if row.name != "Host"]
        if len(rows) != len(keys):
            return None
        spared = fit.spared_bytes(binary, wanted, case.model.vocab)
        return {
            key: refining.needed(
                (row.model_mib + row.context_mib) << 20,
                row.compute_mib << 20,
                work=case.work(wanted, key),
                spared=spared,
                step=1 << 20,
            )
            for key, row in zip(keys, rows, strict=True)
        }

    return ask


def _dry_loads(binary: Binary, engine: Offload, case: _Case) -> Ask:
    """Asks the library of the environment, which is of another build than what serves."""
    from advisor.execute.llama import fit
    from advisor.planner import refining

    keys = refining.accelerators(case.plan)

    def ask(wanted: RunSettings) -> Needs | None:
        try:
            got = engine.dry(case.artifact, wanted)
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            return None
        if len(got.devices) != len(keys):
            return None
        spared = fit.spared_bytes(binary, wanted, case.model.vocab)
        buffers = [got.buffers.get(str(device["name"]), {}) for device in got.devices]
        return {
            key: refining.needed(
                sum(there.values()) - there.get("compute", 0),
                there.get("compute", 0),
                work=case.work(wanted, key),
                spared=spared,
                same_build=False,
            )
            for key, there in zip(keys, buffers, strict=True)
        }

    return ask
