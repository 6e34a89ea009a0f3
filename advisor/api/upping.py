"""``advisor up``: decide, make, prove, serve, measure. Every step is resumable; a second run reuses what is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

import msgspec

from advisor.api import asking, hubbing, keeping, learning, planning, providing, receipts, ruling, sharing, trying
from advisor.api.context import DEFAULT_MODEL, load_settings, resolve_model, this_machine
from advisor.api.launching import (
    Endpoint,
    deployment_name,
    endpoint_of,
    free_port,
    launch,
    launched_notes,
    read_key,
    smoke,
)
from advisor.api.making import Made, facts_or_fetch, make_and_verify
from advisor.api.offline import refuse_offline
from advisor.api.options import PlanOptions, checked, machine_options, request_of
from advisor.errors import AdvisorError
from advisor.events import Cancel, Reporter
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.reports import RecommendReport
from advisor.facts.results import Deployment, Receipt, UpResult, Verification
from advisor.facts.text import shell_word
from advisor.settings import without_network

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.settings import Settings


class Chosen(NamedTuple):
    """The plan to carry out, its model, the machine it was made for, and the plan that would be next.

    ``threads_named``: the user named the number of threads, so that none is tried.
    """

    plan: Plan
    model: ModelFacts
    machine: Machine
    following: Plan | None
    threads_named: bool = False


def up(
    model_or_plan: str | Plan | None = None,
    *,
    name: str | None = None,
    host: str | None = None,
    port: int | None = None,
    recover: str | None = None,
    dry_run: bool = False,
    text: Path | str | None = None,
    provider: str | None = None,
    settings: Settings | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[PlanOptions],
) -> UpResult:
    """Bring a model up behind an OpenAI-compatible endpoint and prove what was promised.

    ``model_or_plan``: a model, the id of a kept plan, a plan, or nothing for a small real model. A run that was
    stopped goes on where it was; a deployment of the same plan that is ready is reused. ``provider``: which llama.cpp
    serves (``path``, ``build``, ``wheel``); the best one for the plan otherwise. ``options``: as ``recommend``;
    ``no_download`` holds for environments, too.

    Raises:
        AdvisorError: ``nothing-fits``, ``not-available``, ``quality-gate-failed``, ``not-enough-memory``,
            ``disk-full``, ``env-failed``, ``network``, ``offline``, ``server-failed``, ``name-taken``,
            ``port-taken``, ``interrupted``, and what ``recommend`` raises.
    """
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Outcome, Step, Steps

    checked("up", options)
    s = load_settings(settings)
    if options.get("no_download"):
        s = without_network(s)
    if name is not None:
        from advisor.deploy.spec import check_name

        check_name(name)
    another = machine_options(options)
    if (
        another["hardware"] not in ((), ("this",))
        or any(another[k] is not None for k in ("memory", "vram", "bandwidth"))
        or another["total"]
    ):
        raise AdvisorError(
            "contradictory-options",
            "`up` takes this machine as it is; --hardware, --memory, --vram, --bandwidth and --total are for another.",
            context=["--max-memory keeps a plan below a size"],
            hint=f"advisor recommend {shell_word(model_or_plan) if isinstance(model_or_plan, str) else DEFAULT_MODEL}",
        )
    steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))

    def choose() -> Outcome[Chosen]:
        chosen = _choose(s, steps, model_or_plan, options, dry_run=dry_run, provider=provider)
        p = chosen.plan
        return Outcome(chosen, detail=f"{p.id}: {p.format} in {p.runtime}, context {p.settings.context}")

    chosen = steps.do(Step("decide", choose))
    if dry_run:
        asking.own_fit_step(s, steps, chosen.plan, chosen.model)
        done = UpResult(deployment=None, plan=chosen.plan, steps=tuple(steps.records), receipt=None)
    else:
        measured_on = hubbing.text(text, s, steps)
        done = _carry_out(s, steps, chosen, name=name, host=host, port=port, text=measured_on, provider=provider)
    return msgspec.structs.replace(done, warnings=ruling.own_rules(settings=s))


def _choose(
    settings: Settings,
    steps: Steps,
    what: str | Plan | None,
    options: PlanOptions,
    *,
    dry_run: bool,
    provider: str | None,
) -> Chosen:
    """The first plan that this machine can carry out; for a dry run any plan will do."""
    if isinstance(what, Plan):
        if not dry_run:
            _refuse_unless_runnable(what, what.model, "this")
        model = _model_of(what, _ref_of(what, settings), settings, steps, dry_run=dry_run)
        return Chosen(what, model, planning.own_machine(settings), None)
    if what is not None and keeping.PLAN_ID.match(what):
        kept = keeping.find(settings, what)
        if not dry_run:
            _refuse_unless_runnable(kept.plan, kept.model_ref, kept.machine)
        model = _model_of(kept.plan, kept.model_ref, settings, steps, dry_run=dry_run)
        named = kept.request.threads is not None
        return Chosen(kept.plan, model, planning.own_machine(settings), None, named)
    ref = what or DEFAULT_MODEL
    facts = facts_or_fetch(ref, settings, steps, ask=not dry_run)
    # A model of the hub is named with its commit from here on, so that what is planned is what is fetched.
    exact = facts.ref if facts.kind == "hub" and facts.revision else ref
    serving = keeping.requests_of(settings, _serving(settings))
    # A deployment that this very wish has launched is not in its own way.
    own = [plan_id for plan_id, asked in serving.items() if asked == request_of(options, top=50)]
    beside = sharing.around(this_machine(settings)[0], settings, giving_back=own)[0] if own else None
    report = planning.recommend(exact, machine=beside, settings=settings, top=50, **options)
    if not dry_run:
        _refuse_without_weights(report.model, report.plans, ref, settings)
    ready = [p for p in report.plans if dry_run or (p.status == "ready" and p.executable_here)]
    if not ready:
        raise _no_plan(ref, report)
    ready = providing.servable(settings, ready, report.machine, provider)
    # What was measured at a launch may change the order: what the same wish has launched already stays the answer.
    ready.sort(key=lambda p: serving.get(p.id) != request_of(options, top=50))
    following = ready[1] if len(ready) > 1 else None
    return Chosen(ready[0], report.model, report.machine, following, options.get("threads") is not None)


def _serving(settings: Settings) -> tuple[str, ...]:
    """The plans of deployments that are ready."""
    from advisor.api.serving import manager

    return tuple(d.plan_id for d in manager(settings).survey().deployments if d.state == "ready")


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


def _no_plan(ref: str, report: RecommendReport) -> AdvisorError:
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
    moves = report.relaxations[:3]
    return AdvisorError(
        "nothing-fits",
        f"No plan for {ref} fits this machine.",
        context=[*why, *(f"with {relaxation_text(r)}" for r in moves)],
        hint=next((r.command for r in moves if r.command is not None), f"advisor recommend {shell_word(ref)}"),
        data={"relaxations": [{"change": r.change, "plan": r.plan.id, "command": r.command} for r in moves]},
    )


def _carry_out(
    settings: Settings,
    steps: Steps,
    chosen: Chosen,
    *,
    name: str | None,
    host: str | None,
    port: int | None,
    text: Path | None,
    provider: str | None,
) -> UpResult:
    from advisor.api.serving import manager

    plan = chosen.plan
    deployments = manager(settings)
    wanted_name = name or deployment_name(chosen.model)
    running = _running(deployments, wanted_name, plan, named=name is not None, provider=provider)
    known = receipts.load(deployments.folder(running.name)) if running is not None else None
    if running is not None and known is not None and (port is None or port == running.port):
        return _reuse(steps, deployments, running, plan, chosen.model, known)
    endpoint = endpoint_of(settings, host, port)
    # A server that runs already has its memory: a run that was killed before its receipt is taken up here.
    _preflight(settings, steps, chosen, deployments, wanted_name, endpoint, memory=running is None)
    serving = providing.serving(settings, steps, plan, chosen.machine, provider)
    made, verification, env = make_and_verify(
        settings,
        steps,
        chosen.model,
        plan=plan,
        text=text,
        following=chosen.following,
        binary=serving.binary,
    )
    if plan.method == "gguf" and running is None and not chosen.threads_named:
        plan = trying.tuned(settings, steps, plan, chosen.model, chosen.machine, made.artifact, env)
    if plan.method == "gguf":
        plan = asking.corrected(settings, steps, plan, chosen.model, made, env, serving, memory=running is None)
        if running is None:
            asking.own_fit_step(settings, steps, plan, chosen.model, made, serving)
    if running is None:
        receipts.forget(deployments.folder(wanted_name))
    deployment, key = launch(
        settings,
        steps,
        deployments,
        plan,
        chosen.model,
        made,
        env,
        wanted_name,
        endpoint,
        serving,
        chosen.machine,
        provider=provider,
    )
    made = made._replace(notes=(*made.notes, *launched_notes(deployments, deployment.name, plan, chosen.machine)))
    answer = smoke(steps, deployments, deployment, chosen.model, key)
    receipt = _receipt(
        settings, steps, deployments, deployment, plan, chosen.model, chosen.machine, verification, made, answer, key
    )
    return UpResult(
        deployment=deployments.get(deployment.name),
        plan=plan,
        steps=tuple(steps.records),
        receipt=receipt,
        verification=verification,
    )


def _running(
    deployments: Deployments, name: str, plan: Plan, *, named: bool, provider: str | None
) -> Deployment | None:
    """The ready deployment of this very plan: the one named, or any where no name was given; of the provider that was
    asked for, where one was."""
    there = [
        d
        for d in deployments.list()
        if d.plan_id == plan.id
        and d.state == "ready"
        and (d.name == name or not named)
        and (provider is None or d.provider == provider)
    ]
    return min(there, key=lambda d: d.name, default=None)


def _reuse(
    steps: Steps, deployments: Deployments, running: Deployment, plan: Plan, model: ModelFacts, receipt: Receipt
) -> UpResult:
    """Everything is there: ask it once more, and show the receipt of its launch."""
    from advisor.execute.steps import Outcome, Step

    steps.do(Step("launch", lambda: Outcome(running, reused=True, detail=f"{running.name} at {running.url}")))
    key = read_key(running.api_key_file)
    answer = smoke(steps, deployments, running, model, key)
    receipt = msgspec.structs.replace(receipt, answer=answer)
    return UpResult(deployment=running, plan=plan, steps=tuple(steps.records), receipt=receipt)


def _preflight(
    settings: Settings,
    steps: Steps,
    chosen: Chosen,
    deployments: Deployments,
    name: str,
    endpoint: Endpoint,
    *,
    memory: bool,
) -> None:
    """What would stop the run at its end is looked at before its long steps."""
    from advisor.execute import preflight
    from advisor.execute.disk import make_folders
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store

    def run() -> Outcome[None]:
        refuse_offline(settings, chosen.plan, chosen.model)
        make_folders(settings.paths.store)
        Store(settings.paths.store).gc(quarantine=False)  # what killed runs left counts against the free space
        preflight.check_disk(settings.paths.store, chosen.plan.disk.peak_bytes, f"The plan {chosen.plan.id}")
        if memory:
            preflight.check_memory(chosen.plan, chosen.machine)
        free_port(deployments, name, endpoint)
        return Outcome(None, detail="disk, memory and port are fine")

    steps.do(Step("preflight", run))


def _receipt(
    settings: Settings,
    steps: Steps,
    deployments: Deployments,
    deployment: Deployment,
    plan: Plan,
    model: ModelFacts,
    machine: Machine,
    verification: Verification | None,
    made: Made,
    answer: str,
    key: str | None,
) -> Receipt:
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[Receipt]:
        receipt = receipts.measure(
            deployments,
            deployment,
            plan,
            gate=verification.gate if verification is not None else None,
            notes=made.notes,
            api_key=key,
        )
        folder = deployments.folder(deployment.name)
        receipts.save(folder, receipt)
        problem = learning.from_receipt(
            settings, plan, model, machine, deployment, receipt, depth=receipts.prompt_tokens(plan)
        )
        if problem is not None:
            receipt = msgspec.structs.replace(receipt, notes=(*receipt.notes, problem))
            receipts.save(folder, receipt)
        return Outcome(msgspec.structs.replace(receipt, answer=answer))

    return steps.do(Step("receipt", run))
