"""Looking and deciding: nothing here changes the machine, apart from keeping plans and measurements."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import msgspec

from advisor import datafiles
from advisor.api import keeping, learning, sharing
from advisor.api.asked_recipe import check_recipe
from advisor.api.context import (
    DEFAULT_MODEL,
    bundle_or_probe,
    load_settings,
    model_from_file,
    resolve_model,
    rule_pack,
    this_machine,
)
from advisor.api.options import (
    MACHINE_KEYS,
    MachineOptions,
    PlanOptions,
    checked,
    machine_options,
    named_settings,
    named_words,
    request_of,
)
from advisor.api.targeting import planned_for, target_machine
from advisor.errors import AdvisorError
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Estimate, Plan, PlanRequest, Relaxation, Warning_
from advisor.facts.reports import ProbeReport, RecommendReport
from advisor.settings import probe_variables

if TYPE_CHECKING:
    from advisor.api.sharing import Neighbours
    from advisor.planner.again import Named
    from advisor.settings import Settings


def probe(
    *,
    measure: bool = False,
    record: Path | None = None,
    machine: Path | None = None,
    settings: Settings | None = None,
) -> ProbeReport:
    """Look at this machine, or replay a recorded one.

    Args:
        measure: measure read bandwidth of host memory (about two seconds), the disk of the store, and the devices that
            a managed environment can use; kept until the next boot.
        record: folder to write a scrubbed bundle of the raw inputs to.
        machine: a bundle, or a file with the document of ``advisor probe --json``, to replay instead.

    Raises:
        AdvisorError: ``contradictory-options``, ``bad-machine-file``, ``not-writable``.
    """
    s = load_settings(settings)
    if machine is not None and (measure or record is not None):
        raise AdvisorError(
            "contradictory-options", "A replayed machine can be neither measured nor recorded.", hint="advisor probe"
        )
    warnings: tuple[Warning_, ...] = ()
    if measure or record is not None:
        from advisor.api import measuring

        if measure:
            warnings += measuring.measure(this_machine(s)[0], s)
        if record is not None:
            from advisor.probes.record import record as write_bundle

            write_bundle(record, environment=probe_variables(), measurements=measuring.known(s, now=True))
    found, more, here = bundle_or_probe(machine, s)
    engines, problems = learning.engines(s, found) if here else ((), ())
    return ProbeReport(machine=found, warnings=warnings + more + problems, measured=engines)


def describe(model: str, *, settings: Settings | None = None) -> ModelFacts:
    """Facts of a model, without the network and without loading it.

    Raises:
        AdvisorError: not found, not here yet, untrusted or refused.
    """
    return resolve_model(model, load_settings(settings))


def recommend(
    model: str | None = None,
    *,
    machine: Machine | Path | None = None,
    model_facts: Path | None = None,
    top: int = 5,
    pareto: bool = False,
    measured: bool = True,
    giving_back: Collection[str] = (),
    settings: Settings | None = None,
    **options: Unpack[PlanOptions],
) -> RecommendReport:
    """Decide how to run ``model`` without doing anything: ranked plans, and why the others lost.

    ``plans`` is empty where nothing fits.

    Args:
        model: a model; a small real one by default.
        machine: a machine, or a recorded one, to plan for; this one by default.
        model_facts: a file with the model's facts.
        top: how many plans to return.
        pareto: only plans that no other one beats in quality, speed and memory together.
        measured: what was measured of this model and on this machine takes the place of predictions.
        giving_back: names of deployments that the plan will replace: their memory counts as free.
        options: see ``PlanOptions``: ``goal``, ``context``, ``hardware``, ``memory`` ...

    Raises:
        AdvisorError: an unknown model, goal, device or word; options that exclude each other.
    """
    checked("recommend", options)
    s = load_settings(settings)
    target, warnings, here, there = planned_for(s, machine, machine_options(options), giving_back)
    facts = model_from_file(model_facts) if model_facts is not None else resolve_model(model or DEFAULT_MODEL, s)
    request = msgspec.structs.replace(request_of(options, top=top), pareto=pareto)
    named = named_words(facts, machine, model_facts, machine_options(options))
    return _recommend(s, facts, target, warnings, request, here=here, measured=measured, named=named, there=there)


def _recommend(
    settings: Settings,
    facts: ModelFacts,
    machine: Machine,
    warnings: tuple[Warning_, ...],
    request: PlanRequest,
    *,
    here: bool,
    measured: bool,
    named: Named,
    there: Neighbours | None,
) -> RecommendReport:
    from advisor.api import asking, own_files, ready_made
    from advisor.backends.registry import quantizers, runtimes
    from advisor.model.tensors import tensors
    from advisor.planner import goals
    from advisor.planner.recommend import recommend as plan
    from advisor.planner.request import check
    from advisor.planner.tradeoff import compared

    pack = rule_pack(settings)
    able = {name: q.capabilities() for name, q in quantizers().items()}
    check(request, pack, able, model=facts.ref)  # what no machine can run, before what this recipe lacks
    check_recipe(facts, request)
    seen = machine
    known, more = learning.learned(settings, machine, here=here) if measured else (None, ())  # says what is damaged
    warnings += more
    lessons = learning.lessons(settings, machine, here=here) if measured else None
    lacking = None
    if lessons is not None:
        from advisor.api import kernels

        warnings += tuple(Warning_(code="memory-learned", message=note) for note in lessons.notes(machine))
        lacking = kernels.holding(lessons, machine)
        if lacking is not None:
            warnings += tuple(Warning_(code="kernels-learned", message=note) for note in lacking.notes())
        machine = lessons.limited(machine)
    wanted = goals.get(
        request.goal,
        overlay=datafiles.overlay_dir(settings.paths.config, "profiles/goals"),
        cache_dir=Path(settings.paths.cache) / "rules",
    )
    result = plan(
        facts,
        tensors(facts),
        machine,
        wanted,
        request,
        pack,
        runtimes={name: r.capabilities() for name, r in runtimes().items()},
        quantizers=able,
        executable_here=here,
        learned=known,
        lacking=lacking,
        named=named,
        engine=asking.oracle(settings),
        cost_fn=learning.costs(settings, facts, machine, lessons) if measured else None,
        beside=there.beside(lessons.limited if lessons is not None else lambda where: where) if there else None,
    )
    machine = seen
    offered = ready_made.offered(result.plans, facts, request, settings)
    if offered != result.plans:
        offered = compared(offered)
    result = msgspec.structs.replace(result, plans=tuple(with_given(p, machine) for p in offered))
    as_planned = result.plans
    result = msgspec.structs.replace(result, plans=tuple(with_weights(p, facts, settings) for p in result.plans))
    result = msgspec.structs.replace(result, relaxations=tuple(_moved(r, facts, settings) for r in result.relaxations))
    report = RecommendReport(
        plans=result.plans,
        rejected=result.rejected,
        relaxations=result.relaxations,
        machine=machine,
        model=facts,
        goal=wanted,
        warnings=tuple(dict.fromkeys((*warnings, *result.warnings, *own_files.problems(settings)))),
        candidates_considered=result.candidates_considered,
        candidates_possible=result.candidates_possible,
        rules_hash=result.rules_hash,
        overlay_rules=result.overlay_rules,
        stages=result.stages,
    )
    # Being offline now is no property of a plan for a model of the hub.
    problem = keeping.keep_report(
        settings, report, request, as_planned if facts.kind == "hub" else result.plans, here=here
    )
    extra = (Warning_(code="plans-not-kept", message=problem),) if problem else ()
    return msgspec.structs.replace(report, warnings=report.warnings + extra)


def _moved(r: Relaxation, facts: ModelFacts, settings: Settings) -> Relaxation:
    """The relaxation, whose plan needs the weights of its model first where they are not here; one that is carried out
    once deployments have ended says so."""
    if r.gives_up == "model" and facts.kind != "size":
        facts = msgspec.structs.replace(facts, name=r.plan.model, kind="hub", path=None)
    plan = with_weights(r.plan, facts, settings)
    asks = r.command
    if r.deployments and plan.status == "ready" and plan.executable_here:
        asks = " && ".join((*(o.command for o in r.deployments), f"advisor up {plan.id}"))
    return msgspec.structs.replace(r, plan=plan, command=asks)


def with_given(plan: Plan, machine: Machine) -> Plan:
    """The plan, which says what of the machine was named and not read."""
    from advisor.probes.named import given

    named = given(machine)
    return msgspec.structs.replace(plan, assumptions=(*plan.assumptions, *named)) if named else plan


def with_weights(plan: Plan, facts: ModelFacts, settings: Settings) -> Plan:
    """The plan, which needs the weights first where they are not here and cannot be fetched either."""
    if facts.kind == "hub" and facts.path is None:
        if not settings.offline:
            return plan
        need = f"the weights of {facts.name}, which are not here: advisor is offline"
    elif facts.weights_format != "none" or facts.kind == "pypi":
        return plan
    else:
        need = "the model's weights: a folder or file with them"
    status = "needs" if plan.status == "ready" else plan.status
    return msgspec.structs.replace(plan, status=status, executable_here=False, needs=(*plan.needs, need))


def _usual(facts: ModelFacts, method: str, fmt: str | None, runtime: str | None) -> tuple[str, str]:
    """Format and runtime of an estimate, where they are not named."""
    if fmt is None and method != "gguf":
        from advisor.model.tensors import tensors
        from advisor.planner.candidate import formats

        tried = formats(method, facts, PlanRequest(), tensors(facts))
        # The usual group comes first also where it does not divide the rows; then the next one does.
        fmt = tried[-1 if method in ("awq", "gptq", "rtn") else 0] if tried else None
    if fmt is None:
        from advisor.planner.candidate import usual_gguf

        fmt = usual_gguf(facts)
    if runtime is None and method != "gguf":
        from advisor.api.checkpoints import runtime_for

        runtime = runtime_for(method, fmt)
    return fmt, runtime or "llama.cpp"


def estimate(
    model: str,
    *,
    method: str = "gguf",
    format: str | None = None,
    runtime: str | None = None,
    machine: Machine | Path | None = None,
    context: int | None = None,
    parallel: int = 1,
    kv_type: str = "f16",
    gpu_layers: int | None = None,
    threads: int | None = None,
    batch: int = 2048,
    ubatch: int = 512,
    engine: bool = False,
    settings: Settings | None = None,
    **options: Unpack[MachineOptions],
) -> Estimate:
    """Numbers for one named choice; no choice is made.

    Without ``format`` it is that of a GGUF file that is named, q4_k_m, or the usual one of ``method``; without
    ``runtime`` llama.cpp, or the one that advisor serves such checkpoints with. ``engine`` asks llama.cpp itself in its
    managed environment (which must have been built) and corrects the formulas.

    Raises:
        AdvisorError: unknown words, ``env-failed`` where the engine is asked and not installed.
    """
    s = load_settings(settings)
    checked("estimate", options, MACHINE_KEYS)
    target, warnings, here = target_machine(s, machine=machine, options=options)
    known, more = learning.learned(s, target, here=here)  # says what is damaged
    warnings += more
    lessons = learning.lessons(s, target, here=here)
    if lessons is not None:
        warnings += tuple(Warning_(code="memory-learned", message=note) for note in lessons.notes(target))
        target = lessons.limited(target)
    pack = rule_pack(s)
    from advisor.api import asking, ruling
    from advisor.model.tensors import tensors
    from advisor.planner.estimate import estimate as one
    from advisor.planner.request import check_choice, check_words, checked_settings
    from advisor.probes.named import given

    check_words(PlanRequest(method=method, format=format, runtime=runtime))
    facts = resolve_model(model, s)
    format, runtime = _usual(facts, method, format, runtime)
    check_choice(method, format, runtime, pack, model=facts.ref)
    wanted, told = checked_settings(
        named_settings(
            facts,
            context=context,
            parallel=parallel,
            kv_type=kv_type,
            gpu_layers=gpu_layers,
            threads=threads,
            batch=batch,
            ubatch=ubatch,
        ),
        target,
        runtime=runtime,
        layers=gpu_layers,
    )
    result = one(
        facts,
        tensors(facts),
        target,
        method=method,
        fmt=format,
        runtime=runtime,
        settings=wanted,
        engine=asking.oracle(s, ask=engine),
        cost_fn=learning.costs(s, facts, target, lessons),
        pack=pack,
        learned=known,
    )
    fit = asking.own_fit(s, facts, format, result.settings) if engine and here and method == "gguf" else None
    return msgspec.structs.replace(
        result,
        engine_fit=fit,
        machine=target.named,
        warnings=warnings + told + result.warnings + ruling.own_rules(settings=s),
        assumptions=(*result.assumptions, *given(target)),
    )


def own_machine(settings: Settings, *, giving_back: Collection[str] = ()) -> Machine:
    """This machine as planning sees it, beside what runs on it; deployments of those names count as gone."""
    return sharing.around(this_machine(settings)[0], settings, giving_back=giving_back)[0]
