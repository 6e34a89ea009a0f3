"""Which plan ``up`` carries out: the one that was named, or the best that this machine can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from advisor.api import keeping, planning, providing, recovering
from advisor.api.context import DEFAULT_MODEL, resolve_model
from advisor.api.launching import deployment_name
from advisor.api.making import facts_or_fetch
from advisor.api.options import PlanOptions, request_of
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan, PlanRequest, Relaxation, Warning_
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.reports import RecommendReport
    from advisor.settings import Settings


# Relaxations that ask for less of the same model and leave all that was asked for by name alone.
_LESS: Final = ("capacity", "much-capacity")
_SHOWN: Final = 3
# What planning says of others on this machine, which `up` says, too.
_TOLD: Final = ("deployments-running", "deployments-in-the-way", "memory-learned")


class Chosen(NamedTuple):
    """The plan to carry out, its model, the machine it was made for, and the plan that would be next.

    ``threads_named``: the user named the number of threads, so that none is tried; ``warnings``: what planning said of
    others on this machine.
    """

    plan: Plan
    model: ModelFacts
    machine: Machine
    following: Plan | None
    threads_named: bool = False
    warnings: tuple[Warning_, ...] = ()


def choose_plan(
    settings: Settings,
    steps: Steps,
    what: str | Plan | None,
    options: PlanOptions,
    *,
    dry_run: bool,
    provider: str | None,
    name: str | None = None,
) -> Chosen:
    """The first plan that this machine can carry out; for a dry run any plan will do. ``name``: of the deployment,
    where the user gave one: then it is planned beside all others."""
    if isinstance(what, Plan):
        if not dry_run:
            _refuse_unless_runnable(what, what.model, "this")
        model = _model_of(what, _ref_of(what, settings), settings, steps, dry_run=dry_run)
        own = _own(settings, name or deployment_name(model), (what.id,))
        return Chosen(what, model, planning.own_machine(settings, giving_back=own), None)
    if what is not None and keeping.PLAN_ID.match(what):
        kept = keeping.find(settings, what)
        if not dry_run:
            _refuse_unless_runnable(kept.plan, kept.model_ref, kept.machine)
        model = _model_of(kept.plan, kept.model_ref, settings, steps, dry_run=dry_run)
        named = kept.request.threads is not None
        own = _own(settings, name or deployment_name(model), (what,))
        return Chosen(kept.plan, model, planning.own_machine(settings, giving_back=own), None, named)
    ref = what or DEFAULT_MODEL
    facts = facts_or_fetch(ref, settings, steps, ask=not dry_run)
    # A model of the hub is named with its commit from here on, so that what is planned is what is fetched.
    exact = facts.ref if facts.kind == "hub" and facts.revision else ref
    serving = keeping.requests_of(settings, _serving(settings, name))
    wish = request_of(options, top=50)
    # A deployment that this very wish has launched is not in its own way.
    asked = tuple(plan_id for plan_id, request in serving.items() if request == wish)
    own = _own(settings, name or deployment_name(facts), asked, any_name=name is None) if asked else ()
    report = planning.recommend(exact, settings=settings, top=50, giving_back=own, **options)
    told = tuple(w for w in report.warnings if w.code in _TOLD)
    for warning in told:
        steps.reporter(Event(kind="warning", step="decide", message=warning.message))
    if not dry_run:
        _refuse_without_weights(report.model, report.plans, ref, settings)
    ready = [p for p in report.plans if dry_run or (p.status == "ready" and p.executable_here)]
    lowered = None if dry_run else _lowered(settings, serving, wish, report)
    if lowered is not None:
        after = ready[0] if ready else None
        return Chosen(lowered, report.model, report.machine, after, wish.threads is not None, told)
    if not ready:
        raise _no_plan(settings, ref, wish, report, name)
    ready = providing.servable(settings, ready, report.machine, provider)
    # What was measured at a launch may change the order: what the same wish has launched already stays the answer.
    ready.sort(key=lambda p: serving.get(p.id) != wish)
    following = ready[1] if len(ready) > 1 else None
    return Chosen(ready[0], report.model, report.machine, following, options.get("threads") is not None, told)


def _lowered(
    settings: Settings, serving: dict[str, PlanRequest], wish: PlanRequest, report: RecommendReport
) -> Plan | None:
    """The plan that serves the same wish already, reached by giving something up: none of the plans that are
    recommended, which would be in its way."""
    there = {p.id for p in report.plans}
    for plan_id, request in serving.items():
        if request == wish and plan_id not in there:
            kept = keeping.find(settings, plan_id)
            if kept.model_ref == report.model.ref and recovering.was_recovered(settings, plan_id):
                return kept.plan
    return None


def _serving(settings: Settings, name: str | None) -> tuple[str, ...]:
    """The plans of deployments that run; of the one ``name`` alone, where one is given."""
    from advisor.api.serving import manager
    from advisor.deploy.observe import ACTIVE

    there = manager(settings).survey().deployments
    return tuple(d.plan_id for d in there if d.state in ACTIVE and name in (None, d.name))


def _own(settings: Settings, name: str, plans: tuple[str, ...], *, any_name: bool = False) -> tuple[str, ...]:
    """Deployments that carrying out one of the plans takes over: the one of that name, and with ``any_name`` those that
    are ready."""
    from advisor.api.serving import manager

    return tuple(
        d.name
        for d in manager(settings).survey().deployments
        if d.plan_id in plans and (d.name == name or (any_name and d.state == "ready"))
    )


def _model_of(plan: Plan, ref: str, settings: Settings, steps: Steps, *, dry_run: bool) -> ModelFacts:
    """The model of a plan that is to be carried out."""
    if dry_run:
        return resolve_model(ref, settings, steps)
    model = facts_or_fetch(ref, settings, steps)
    _refuse_without_weights(model, (plan,), ref, settings)
    return model


def _refuse_without_weights(model: ModelFacts, plans: tuple[Plan, ...], ref: str, settings: Settings) -> None:
    """Facts are enough for a plan, not for carrying it out."""
    here = model.path is not None and model.weights_format != "none"
    if here or model.kind == "pypi" or not plans:
        return
    if model.kind == "hub" and settings.offline:
        raise AdvisorError(
            "offline",
            f"The weights of {model.name} are not here, and advisor is offline.",
            hint=f"advisor recommend {shell_word(ref)}",
            data={"plan": plans[0].id, "missing": model.ref},
        )
    if model.kind != "hub":
        raise AdvisorError(
            "model-needs-download",
            f"{model.name} can be planned from its facts, but its weights are not here. Name a folder or a file that "
            "has them, or a model of the hub.",
            hint=f"advisor recommend {shell_word(ref)}",
            data={"plan": plans[0].id},
        )


def _refuse_unless_runnable(plan: Plan, ref: str, machine: str) -> None:
    if plan.status == "ready" and plan.executable_here:
        return
    made_for = "" if machine == "this" else f" It was made for {machine}."
    raise AdvisorError(
        "not-available",
        f"The plan {plan.id} cannot be carried out here: {'; '.join(plan.needs) or plan.status}.{made_for}",
        context=[f"its commands: advisor up --dry-run {plan.id}"],
        hint=f"advisor recommend {shell_word(ref)}",
        data={"needs": list(plan.needs)},
    )


def _ref_of(plan: Plan, settings: Settings) -> str:
    """What was planned for: plans made by ``recommend`` are kept with it; of another only the name is known."""
    try:
        return keeping.find(settings, plan.id).model_ref
    except AdvisorError:
        return plan.model


def _no_plan(
    settings: Settings, ref: str, wish: PlanRequest, report: RecommendReport, name: str | None
) -> AdvisorError:
    """Nothing can be carried out; with the plan that giving one thing up would make, where there is one."""
    if report.plans:
        best = report.plans[0]
        return AdvisorError(
            "not-available",
            f"The best plan for {ref} here is {best.format} in {best.runtime}, which this version cannot carry out.",
            context=[f"needs: {n}" for n in best.needs],
            hint=f"advisor recommend {shell_word(ref)}",
            data={"plan": best.id, "needs": list(best.needs)},
        )
    from advisor.planner.story import closest_text, relaxation_text

    near = [closest_text(r) for r in report.rejected if r.misses][:3]
    why = near or list(dict.fromkeys(r.because for r in report.rejected))[:5]
    offered = tuple(_named(r, name) for r in report.relaxations)
    # Whose end would make room is always said.
    moves = (*offered[:_SHOWN], *(r for r in offered[_SHOWN:] if r.deployments))
    ending = next((r for r in moves if r.deployments), None)
    beside = " beside what is deployed" if ending is not None else ""
    error = AdvisorError(
        "nothing-fits",
        f"No plan for {ref} fits this machine{beside}.",
        context=[*why, *(f"with {relaxation_text(r)}" for r in moves)],
        hint=next((r.command for r in moves if r.command is not None), f"advisor recommend {shell_word(ref)}"),
        data={"relaxations": [_told(r) for r in moves]},
    )
    if ending is not None:
        error.data["deployments"] = [o.to_json() for o in ending.deployments]
    less = next(
        (r for r in offered if r.gives_up in _LESS and r.plan.status == "ready" and r.plan.executable_here), None
    )
    if less is not None:
        kept = keeping.KeptPlan(
            version=1, plan=less.plan, model_ref=report.model.ref, request=wish, machine=keeping.OWN
        )
        keeping.keep_plans(settings, (kept,))
        error.context = (*error.context, f"next step: {less.change}: advisor up {less.plan.id}{_name(name)}")
        error.data["next_plan"] = less.plan.id
    return error


def _name(name: str | None) -> str:
    return f" --name {shell_word(name)}" if name is not None else ""


def _named(r: Relaxation, name: str | None) -> Relaxation:
    """The relaxation, whose command carries it out under the name that was asked for."""
    if not r.deployments or r.command is None or not r.command.endswith(f"advisor up {r.plan.id}"):
        return r
    return msgspec.structs.replace(r, command=r.command + _name(name))


def _told(r: Relaxation) -> dict[str, object]:
    told: dict[str, object] = {"change": r.change, "gives_up": r.gives_up, "plan": r.plan.id, "command": r.command}
    return told | {"deployments": [o.to_json() for o in r.deployments]} if r.deployments else told
