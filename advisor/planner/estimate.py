"""Numbers for one named choice; nothing is chosen, apart from where the weights go if that was left open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Estimate, Goal, ModelSummary, PlanRequest, Settings, Warning_
from advisor.facts.protocols import EngineOracle
from advisor.guide.schema import RulePack
from advisor.planner.candidate import LLAMA_ENGINES, PIPELINE_PARALLEL, Candidate, source_of
from advisor.planner.costing import CostFn, Costing, Fit, LayersFn, threads
from advisor.planner.facts import CandidateFacts, fixed_facts
from advisor.planner.numa import spans_nodes
from advisor.planner.parallel import machines_needed, stages
from advisor.planner.request import check_context, check_words
from advisor.planner.targets import Target, targets
from advisor.planner.tuning import Tuning

if TYPE_CHECKING:
    from advisor.planner.learned import Learned

# ``gpu_layers`` that means: as many as fit.
AUTO_LAYERS = -1


def summary(model: ModelFacts) -> ModelSummary:
    """The model as it is shown beside numbers."""
    return ModelSummary(
        name=model.name,
        params=model.params,
        active_params=model.active_params,
        architecture=model.architecture,
        layers=model.layers,
        confidence=model.confidence,
        source=model.source,
    )


def estimate(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    machine: Machine,
    *,
    method: str,
    fmt: str,
    runtime: str,
    settings: Settings,
    imatrix: bool = False,
    engine: EngineOracle | None = None,
    cost_fn: CostFn | None = None,
    layers_fn: LayersFn | None = None,
    pack: RulePack | None = None,
    learned: Learned | None = None,
) -> Estimate:
    """Memory, speed and quality of one choice on ``machine``.

    With ``pack`` the settings that rules choose (how the file is loaded) are those of a recommendation. ``learned``:
    what was measured on ``machine``.

    ``settings.gpu_layers`` of -1 puts as many layers on the accelerator as fit; ``settings.context`` is for all
    ``parallel`` slots together and is cut to what the model was trained for.

    Raises:
        AdvisorError: ``bad-option``; ``contradictory-options`` where the format is none of the method.
    """
    check_context(settings.context)
    check_words(PlanRequest(method=method, format=fmt, runtime=runtime, kv_type=settings.kv_type))
    warnings = []
    limit = model.context_max * settings.parallel if model.context_max is not None else None
    if limit is not None and settings.context > limit:
        message = f"context {settings.context} was cut to {limit}, the longest the model was trained for"
        warnings.append(Warning_(code="context-reduced", message=message))
        settings = msgspec.structs.replace(settings, context=limit)
    named = settings.threads
    if named is None:
        settings = msgspec.structs.replace(settings, threads=threads(machine))
    goal = Goal(
        id="chat",
        description="",
        context=max(1, settings.context // settings.parallel),
        parallel=settings.parallel,
        min_decode_tps=None,
        weights={},
        because="",
    )
    request = PlanRequest(kv_type=settings.kv_type, threads=named)
    tune = None
    if pack is not None:
        from advisor.backends.registry import runtimes

        known = {name: r.capabilities() for name, r in runtimes().items()}
        fixed = fixed_facts(model, tensors, machine, goal, request)
        tune = Tuning(pack, fixed, CandidateFacts(model, tensors, request, known, machine))
    costing = Costing(
        model,
        tensors,
        machine,
        goal,
        request,
        cost_fn=cost_fn,
        layers_fn=layers_fn,
        engine=engine,
        tune=tune,
        learned=learned,
    )
    chosen, used = _place(costing, model, method, fmt, runtime, settings, machine)
    cost = costing.cost(chosen, used, imatrix=imatrix)
    fit = costing.fit(chosen, cost, used)
    warnings += [Warning_(code="cost", message=text) for text in dict.fromkeys(cost.warnings)]
    spans = spans_nodes(machine, cost.memory)
    warnings += [spans] if spans else []
    if fit.fits is None:
        warnings.append(Warning_(code="unknown-memory", message="The memory of the device is not known."))
    if cost.speed.decode is None:
        warnings.append(Warning_(code="unknown-speed", message="The speed is not known: no memory bandwidth to go by."))
    return Estimate(
        model=summary(model),
        method=method,  # type: ignore[arg-type]
        format=fmt,
        runtime=runtime,  # type: ignore[arg-type]
        settings=used,
        memory=cost.memory,
        speed=cost.speed,
        quality=cost.quality,
        fits=fit.fits,
        short_by=fit.short_by,
        file_bytes=cost.file_bytes,
        fallbacks=cost.fallbacks,
        warnings=tuple(warnings),
    )


def _place(
    costing: Costing, model: ModelFacts, method: str, fmt: str, runtime: str, settings: Settings, machine: Machine
) -> tuple[Candidate, Settings]:
    """Where the weights go: what the layers say; where they say nothing, the accelerator if it fits, else the host."""
    places = targets(machine)
    llama = method == "gguf" and runtime in LLAMA_ENGINES
    layers = settings.gpu_layers

    def candidate(target: Target) -> Candidate:
        groups = settings.pipeline_parallel
        if groups == 1 and runtime in PIPELINE_PARALLEL and target.placement == "gpu":
            count = len(target.devices)
            groups = stages(model, costing.tensors, count, machines_needed(machine, count))
        if len(target.devices) % groups:
            groups = 1
        return Candidate(method, fmt, runtime, target, None, source_of(method, fmt, model), groups)

    def with_layers(target: Target) -> tuple[Candidate, Settings] | None:
        c = candidate(target)
        base = costing.settings(c)
        if base is None:
            return None
        count = base.gpu_layers if layers == AUTO_LAYERS else min(layers, model.blocks + 1) if llama else 0
        return c, msgspec.structs.replace(
            settings,
            gpu_layers=count,
            tensor_parallel=max(settings.tensor_parallel, c.tensor_parallel),
            pipeline_parallel=max(settings.pipeline_parallel, c.pipeline),
            tensor_split=settings.tensor_split or base.tensor_split,
            load_mode=base.load_mode,
            gpu_memory_utilization=settings.gpu_memory_utilization or base.gpu_memory_utilization,
        )

    host = next(t for t in places if t.placement == "cpu")
    if llama and layers == 0:
        wanted = [host]
    elif llama and layers != AUTO_LAYERS:
        placement = "gpu" if layers > model.blocks else "split"
        unified = [t for t in places if t.placement == "gpu" and placement == "split"]
        wanted = [t for t in places if t.placement == placement] or unified or [host]
        wanted = wanted[:1]
    else:
        order = ("gpu", "split") if llama else ("gpu",)
        wanted = [t for p in order for t in places if t.placement == p] + ([host] if llama else [])
        wanted = wanted or [host]
    tried: list[tuple[Candidate, Settings, Fit]] = []
    for target in wanted:
        found = with_layers(target)
        if found is None and layers not in (0, AUTO_LAYERS):
            found = candidate(target), msgspec.structs.replace(settings, gpu_layers=layers)
        if found is None:
            continue
        cost = costing.cost(found[0], found[1], imatrix=False)
        if target.placement == "gpu" and settings.tensor_split is None:
            found = found[0], costing.balanced(*found, cost, imatrix=False)[0]
            cost = costing.cost(found[0], found[1], imatrix=False)
        fit = costing.fit(found[0], cost, found[1])
        if fit.fits is False and target.placement == "split" and layers == AUTO_LAYERS:
            found, fit = _fewer_layers(costing, *found)
        if fit.fits:
            return found
        tried.append((*found, fit))
    least = min(tried, key=lambda t: (t[2].short_by is None, t[2].short_by or 0))
    return least[0], least[1]


def _fewer_layers(costing: Costing, c: Candidate, settings: Settings) -> tuple[tuple[Candidate, Settings], Fit]:
    """A split with as few layers less on the devices as makes it fit, where that helps; otherwise as it was."""
    first = settings, costing.fit(c, costing.cost(c, settings, imatrix=False), settings)
    fewer, fit = first
    while not fit.fits and fit.short_by:
        by_device = costing.cost(c, fewer, imatrix=False).memory.by_device
        on_devices = sum(int(q.value) for key, q in by_device.items() if key != "host")
        layers = fewer.gpu_layers - max(1, fit.short_by * fewer.gpu_layers // max(1, on_devices))
        if layers < 1:
            break
        fewer = msgspec.structs.replace(fewer, gpu_layers=layers)
        after = costing.fit(c, costing.cost(c, fewer, imatrix=False), fewer)
        if after.short_by is None or after.short_by >= fit.short_by:  # what is moved to the host is missing there
            break
        fit = after
    return ((c, fewer), fit) if fit.fits else ((c, first[0]), first[1])
