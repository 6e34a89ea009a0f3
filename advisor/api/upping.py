"""``advisor up``: decide, make, prove, serve, measure. Every step is resumable; a second run reuses what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import msgspec

from advisor.api import asking, hubbing, learning, planning, providing, receipts, recovering, ruling, sharing, trying
from advisor.api.choosing import Chosen, choose_plan
from advisor.api.context import DEFAULT_MODEL, load_settings
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
from advisor.api.making import Made, make_and_verify
from advisor.api.offline import refuse_offline
from advisor.api.options import PlanOptions, checked, machine_options
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan
from advisor.facts.results import Deployment, Receipt, UpResult, Verification
from advisor.facts.text import shell_word
from advisor.settings import without_network

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.recovery import LadderStep
    from advisor.settings import Settings


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
    serves (``path``, ``build``, ``wheel``); the best one for the plan otherwise. ``recover``: with ``auto`` the next
    plan that an error names (``data["next_plan"]``) is taken, one after the other; without, the error is raised.
    ``options``: as ``recommend``; ``no_download`` holds for environments, too.

    Raises:
        AdvisorError: ``nothing-fits``, ``not-available``, ``quality-gate-failed``, ``not-enough-memory``,
            ``disk-full``, ``env-failed``, ``network``, ``offline``, ``server-failed``, ``name-taken``,
            ``port-taken``, ``interrupted``, and what ``recommend`` raises.
    """
    from advisor.execute.journal import Journal
    from advisor.execute.steps import Steps

    checked("up", options)
    s = load_settings(settings)
    if options.get("no_download"):
        s = without_network(s)
    if name is not None:
        from advisor.deploy.spec import check_name

        check_name(name)
    if recover not in (None, "ask", "auto", "never"):
        raise AdvisorError("bad-option", f"--recover is ask, auto or never, not {recover!r}.")
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
    tried: set[str] = set()
    what = model_or_plan
    while True:
        steps = Steps(reporter=reporter, cancel=cancel, journal=Journal(s.paths.logs / "journal.jsonl"))
        try:
            return _once(
                s, steps, what, options, name=name, host=host, port=port, recover=recover, dry_run=dry_run, text=text,
                provider=provider,
            )  # fmt: skip
        except AdvisorError as e:
            following = e.data.get("next_plan")
            if recover != "auto" or not isinstance(following, str):
                raise
            if following in tried or len(tried) >= recovering.MOST_STEPS:
                del e.data["next_plan"]  # it was taken already, and did not help
                raise
            steps.reporter(Event(kind="warning", step="recover", message=recovering.announced(e)))
            tried.add(following)
            what, options = following, PlanOptions()


def _once(
    s: Settings,
    steps: Steps,
    what: str | Plan | None,
    options: PlanOptions,
    *,
    name: str | None,
    host: str | None,
    port: int | None,
    recover: str | None,
    dry_run: bool,
    text: Path | str | None,
    provider: str | None,
) -> UpResult:
    from advisor.execute.steps import Outcome, Step

    def choose() -> Outcome[Chosen]:
        chosen = choose_plan(s, steps, what, options, dry_run=dry_run, provider=provider, name=name)
        p = chosen.plan
        return Outcome(chosen, detail=f"{p.id}: {p.format} in {p.runtime}, context {p.settings.context}")

    chosen = steps.do(Step("decide", choose))
    if dry_run:
        asking.own_fit_step(s, steps, chosen.plan, chosen.model)
        done = UpResult(deployment=None, plan=chosen.plan, steps=tuple(steps.records), receipt=None)
        return msgspec.structs.replace(done, warnings=chosen.warnings + ruling.own_rules(settings=s))
    measured_on = hubbing.text(text, s, steps)
    try:
        done = _carry_out(
            s, steps, chosen, name=name, host=host, port=port, text=measured_on, provider=provider, recover=recover
        )
    except AdvisorError as e:
        from advisor.api.serving import manager

        wanted = name or deployment_name(chosen.model)
        recovering.explain(s, steps, chosen.plan, chosen.model, e, manager(s), wanted, recover=recover)
        e.hint = recovering.with_words(e.hint, host=host, port=port, text=text, provider=provider)
        raise
    return msgspec.structs.replace(done, warnings=chosen.warnings + ruling.own_rules(settings=s))


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
    recover: str | None,
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
    lower: tuple[LadderStep, ...] = ()
    if running is None:
        receipts.forget(deployments.folder(wanted_name))
        recovering.taking(steps, deployments.folder(wanted_name), wanted_name, plan)
        lower = _look_again(settings, steps, plan, chosen.model, chosen.machine, wanted_name)
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
        recover=recover,
        lower=lower,
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


def _look_again(
    settings: Settings, steps: Steps, plan: Plan, model: ModelFacts, planned_for: Machine, name: str
) -> tuple[LadderStep, ...]:
    """Check right before the launch, as a step, that the memory is still there: making may have taken hours, and others
    may have come meanwhile. What would be given up if memory runs out under traffic is found here, too.

    Raises:
        AdvisorError: ``not-enough-memory``.
    """
    from advisor.execute import preflight
    from advisor.execute.steps import Outcome, Step

    def run() -> Outcome[tuple[LadderStep, ...]]:
        now = planning.own_machine(settings, giving_back=(name,))
        with sharing.blaming(settings, lambda machine: preflight.check_memory(plan, machine), replacing=name):
            preflight.check_memory(plan, now, planned_for=planned_for)
        lower = recovering.fallbacks(settings, plan, model, now)
        told = f"; {len(lower)} step{'s' * (len(lower) != 1)} ready if memory runs out" if lower else ""
        return Outcome(lower, detail=f"the memory is there{told}")

    return steps.do(Step("memory", run))


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
        preflight.check_disk(
            settings.paths.store, to_write(chosen.plan, deployments.list()), f"The plan {chosen.plan.id}"
        )
        deployments.check_name(name, chosen.plan.id)
        if memory:
            with sharing.blaming(settings, lambda m: preflight.check_memory(chosen.plan, m), replacing=name):
                preflight.check_memory(chosen.plan, chosen.machine)
        free_port(deployments, name, endpoint)
        return Outcome(None, detail="disk, memory and port are fine")

    steps.do(Step("preflight", run))


def to_write(plan: Plan, deployments: Sequence[Deployment]) -> int | None:
    """Bytes that carrying out a plan writes: none where a deployment, also one that was stopped, has its artifact."""
    there = any(d.plan_id == plan.id and d.artifact and Path(d.artifact).exists() for d in deployments)
    return 0 if there else plan.disk.peak_bytes


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
        taken = deployments.get(deployment.name).recovered
        if taken:
            receipt = msgspec.structs.replace(
                receipt, recovered=taken, notes=(*receipt.notes, *recovering.notes(taken))
            )
            receipts.save(folder, receipt)
        learning.disprove(settings, machine, plan, receipt)
        problem = learning.from_receipt(
            settings, plan, model, machine, deployment, receipt, depth=receipts.prompt_tokens(plan)
        )
        if problem is not None:
            receipt = msgspec.structs.replace(receipt, notes=(*receipt.notes, problem))
            receipts.save(folder, receipt)
        return Outcome(msgspec.structs.replace(receipt, answer=answer))

    return steps.do(Step("receipt", run))
