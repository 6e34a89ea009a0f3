"""What follows a failed launch: a diagnosis, what was missing, the ladder's steps, and the record of all that."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from advisor import datafiles
from advisor.api import keeping, kernels, learning, making_failed, planning
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.facts.plan import Plan, PlanRequest
from advisor.facts.recovery import Diagnosis, KernelLesson, LadderStep, MemoryLesson, Recovery, When
from advisor.facts.text import shell_word

if TYPE_CHECKING:
    from advisor.deploy.manager import Deployments
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts
    from advisor.planner.ladder_making import MakingLadder
    from advisor.settings import Settings

# Steps of ``up`` at which lack of memory or of a kernel shows.
_LOADING: Final = frozenset({"preflight", "ask-engine", "memory", "launch"})
_SERVING: Final = frozenset({"smoke", "receipt"})
# More steps than this one after the other are no recovery.
MOST_STEPS: Final = 6
# Shares of what a plan takes that a step under traffic has to free, in turn.
_SHARES: Final = (0.05, 0.2, 0.45)
_LOG_LINES: Final = 5000
_PLAN_AGAIN: Final = re.compile(r"(?:^|&& )advisor up p-[0-9a-f]{8}\b[^&|;]*$")
_RECORDED_S: Final = 5.0


def diagnosed(
    deployments: Deployments, name: str, plan: Plan, *, when: When, extra: tuple[str, ...] = ()
) -> Diagnosis | None:
    """Why the server of a deployment ended, out of its log and its supervisor's record; ``None`` where neither memory
    nor a kernel lacked."""
    from advisor.backends import causes
    from advisor.backends.registry import runtimes
    from advisor.deploy import statefile
    from advisor.deploy.observe import read_status

    try:
        status = read_status(deployments.folder(name))
        log = deployments.run_log(name, _LOG_LINES)
    except (AdvisorError, statefile.Untrusted):
        status, log = None, ()
    from advisor.probes.process_limits import addresses_in_the_way

    ended = causes.Ended(address_limit=addresses_in_the_way())
    if status is not None:
        ended = ended._replace(
            exit_code=status.exit_code,
            exit_signal=status.exit_signal,
            oom_kills=status.oom_kills,
            limit_bytes=status.limit_bytes,
            peak_bytes=status.peak_bytes,
        )
    return causes.diagnose(runtimes()[plan.runtime], (*extra, *log), ended, devices=plan.devices, when=when)


def explain(
    settings: Settings,
    steps: Steps,
    plan: Plan,
    model: ModelFacts,
    error: AdvisorError,
    deployments: Deployments,
    name: str,
    *,
    recover: str | None,
) -> None:
    """Add to ``error`` what was found out, and the steps of the ladder: ``data["diagnosis"]``, ``data["ladder"]`` and,
    where there is a step, ``data["next_plan"]`` with a hint that takes it. What was learned and proposed is kept."""
    found = _diagnosis(error, deployments, name, plan)
    if found is None:
        return
    error.data["diagnosis"] = found.to_json()
    if found.cause == "process-limit":
        making_failed.limited(error, found, f"advisor up {plan.id} --name {shell_word(name)}")
        return
    machine = planning.own_machine(settings)
    making = found.when == "making"
    missing = None if making else _missing(settings, steps, plan, found, machine, error)
    if found.cause == "unsupported-kernel" and not making:
        lesson = kernels.lesson_of(plan, found, machine, _served_by(deployments, name))
        _told_of(steps, error, lesson, kernels.teach(settings, machine, lesson))
    try:
        ladder = ladder_for(settings, plan, model, machine)
        if making:
            rungs = making_failed.rungs(ladder, str(error.data.get("step")), found, machine)
        else:
            rungs = ladder.memory(found.device, missing) if missing is not None else ladder.kernels()
    except AdvisorError as e:  # a model or rules that cannot be planned any more
        error.context = (*error.context, f"no next step was looked for: {e.message}")
        return
    rungs = tuple(making_failed.proven_as(_of_same_artifact(r, plan), plan) for r in rungs)
    keeping.keep_plans(settings, _kept(settings, plan, model, rungs))
    error.data["ladder"] = [_told(r) for r in rungs]
    lines = [f"found: {found.message}", *(f"evidence: {line}" for line in found.evidence)]
    lines = [line for line in lines if line not in error.context]
    if missing is not None:
        lines.append(f"missing on {found.device}: at least {missing / 2**20:.0f} MiB")
    step = rungs[0] if rungs else None
    if step is None:
        lines.append("next step: none was found that fits; a smaller model may")
    else:
        lines.append(f"next step: {words(step)}")
        error.data["next_plan"] = step.plan.id
        if recover != "never":
            error.hint = f"advisor up {step.plan.id} --name {shell_word(name)}"
    error.context = (*(x for x in error.context if not x.startswith("diagnosis (")), *lines)
    entry = _entry("proposed", found, plan.id, step, missing)
    _write(steps, deployments.folder(name), name, entry)


def words(step: LadderStep) -> str:
    """A step in a sentence: what is moved, what it frees, what is given up."""
    frees = f", frees {step.frees_bytes / 2**20:.0f} MiB on {step.device}" if step.frees_bytes else ""
    return f"{step.change}{frees}; given up: {step.given_up}"


def with_words(hint: str | None, **asked: object) -> str | None:
    """A hint that carries out a plan, with what was asked for beside it: the plan itself says nothing of that."""
    if hint is None or _PLAN_AGAIN.search(hint) is None:
        return hint
    kept = ((f"--{name}", value) for name, value in asked.items() if value is not None)
    return hint + "".join(f" {word} {shell_word(str(value))}" for word, value in kept if word not in hint.split())


def _diagnosis(error: AdvisorError, deployments: Deployments, name: str, plan: Plan) -> Diagnosis | None:
    step = error.data.get("step")
    making = making_failed.diagnosis(error)
    if making is not None:
        return making
    if step in _LOADING and error.code == "not-enough-memory":
        return _before_launch(error, plan)
    if step == "launch" and error.code in ("server-failed", "server-timeout"):
        return diagnosed(deployments, name, plan, when="load")
    if step in _SERVING and error.code in ("server-failed", "server-timeout"):
        _until_recorded(deployments, name)
        found = diagnosed(deployments, name, plan, when="traffic")
        if found is not None:  # its supervisor may be starting it again: that is decided here now
            deployments.stop(name)
        return found
    return None


def _until_recorded(deployments: Deployments, name: str) -> None:
    """Wait until the supervisor has written down how its server ended: a client sees a broken reply before that."""
    from advisor.deploy import statefile
    from advisor.deploy.observe import read_status

    until = time.monotonic() + _RECORDED_S
    while time.monotonic() < until:
        with suppress(statefile.Untrusted):
            status = read_status(deployments.folder(name))
            if status is None or status.exit_code is not None or status.exit_signal is not None:
                return
        time.sleep(0.1)


def _before_launch(error: AdvisorError, plan: Plan) -> Diagnosis | None:
    """What the check before a launch, or the engine, says: the device with the largest part missing."""
    told = error.data.get("devices")
    if not isinstance(told, dict) or not told:
        return None
    parts = {key: v if isinstance(v, dict) else {"needed_bytes": v} for key, v in told.items()}
    key = max(parts, key=lambda k: parts[k].get("short_by") or parts[k].get("needed_bytes") or 0)
    return Diagnosis(
        cause="out-of-memory",
        code=error.code,
        when="before-launch",
        device=key,
        message=error.message,
        wanted_bytes=parts[key].get("needed_bytes"),
        available_bytes=parts[key].get("free_bytes"),
    )


def _missing(
    settings: Settings, steps: Steps, plan: Plan, found: Diagnosis, machine: Machine, error: AdvisorError
) -> int | None:
    """Bytes that were missing, ``None`` where memory was not what lacked; the lesson, where there is one, is kept."""
    if found.cause != "out-of-memory":
        return None
    from advisor.execute.measurements import now
    from advisor.planner.lessons import shortage

    if found.when == "before-launch":
        needed, free = found.wanted_bytes or 0, found.available_bytes
        return max(1, needed - free) if free is not None else 1
    boot = learning.this_boot()
    known = learning.lessons(settings, machine, here=True)
    again = known is not None and any(x.ceiling_bytes and x.device_key == found.device for x in known.lessons)
    short = shortage(plan, found, machine, boot=boot, at=now(), again=again)
    if short.lesson is not None:
        _told_of(steps, error, short.lesson, learning.teach(settings, machine, short.lesson))
    return short.missing_bytes


def _served_by(deployments: Deployments, name: str) -> str | None:
    """The provider of the launch that failed, where its runtime has several."""
    with suppress(AdvisorError):
        return deployments.spec(name).provider
    return None


def _told_of(steps: Steps, error: AdvisorError, lesson: MemoryLesson | KernelLesson, problem: str | None) -> None:
    """Say what was learned, and where it could not be kept."""
    if problem is not None:
        steps.reporter(Event(kind="warning", step="recover", message=problem))
    error.data["learned"] = lesson.to_json()


def ladder_for(settings: Settings, plan: Plan, model: ModelFacts, machine: Machine) -> MakingLadder:
    """The ladder of a plan on this machine, with all that is known of both.

    Raises:
        AdvisorError: a model that cannot be planned, an unknown goal.
    """
    from advisor.api import asking
    from advisor.api.context import rule_pack
    from advisor.backends.registry import quantizers, runtimes
    from advisor.model.tensors import tensors
    from advisor.planner import goals
    from advisor.planner.ladder_making import MakingLadder
    from advisor.planner.recommend import Planner

    request = _request(settings, plan)
    lessons = learning.lessons(settings, machine, here=True)
    without = kernels.holding(lessons, machine) if lessons is not None else None
    if lessons is not None:
        machine = lessons.limited(machine)
    known, _ = learning.learned(settings, machine, here=True)
    planner = Planner(
        model,
        tensors(model),
        rule_pack(settings),
        {name: r.capabilities() for name, r in runtimes().items()},
        {name: q.capabilities() for name, q in quantizers().items()},
        engine=asking.oracle(settings),
        cost_fn=learning.costs(settings, model, machine, lessons),
        learned=known,
        lacking=without,
    )
    goal = goals.get(
        request.goal,
        overlay=datafiles.overlay_dir(settings.paths.config, "profiles/goals"),
        cache_dir=Path(settings.paths.cache) / "rules",
    )
    return MakingLadder(planner, machine, goal, request, plan)


def fallbacks(settings: Settings, plan: Plan, model: ModelFacts, machine: Machine) -> tuple[LadderStep, ...]:
    """Steps for a death under traffic, found before it happens: the same file by another command line, each freeing
    more than the one before."""
    from advisor.planner.ladder import need

    try:
        ladder = ladder_for(settings, plan, model, machine)
        device = max(tuple(plan.memory.by_device) or ("host",), key=lambda key: need(plan, key))
        whole = need(plan, device)
        found: dict[str, LadderStep] = {}
        for share in _SHARES:
            for step in ladder.memory(device, int(whole * share), same_artifact=True)[:1]:
                found.setdefault(step.plan.id, _of_same_artifact(step, plan))
    except AdvisorError:
        return ()
    rungs = tuple(sorted(found.values(), key=lambda s: s.frees_bytes or 0))
    keeping.keep_plans(settings, _kept(settings, plan, model, rungs))
    return rungs


def _request(settings: Settings, plan: Plan) -> PlanRequest:
    """What the plan was an answer to; the usual wishes where it was not kept."""
    try:
        return keeping.find(settings, plan.id).request
    except AdvisorError:
        return PlanRequest()


def _kept(
    settings: Settings, plan: Plan, model: ModelFacts, rungs: tuple[LadderStep, ...]
) -> tuple[keeping.KeptPlan, ...]:
    request = _request(settings, plan)
    return tuple(
        keeping.KeptPlan(version=1, plan=r.plan, model_ref=model.ref, request=request, machine=keeping.OWN)
        for r in rungs
    )


def _of_same_artifact(step: LadderStep, plan: Plan) -> LadderStep:
    """A step that leaves the format alone is served from the artifact of the plan, a ready-made one included."""
    made = step.plan
    if plan.artifact is None or (made.method, made.made_as) != (plan.method, plan.made_as):
        return step
    import hashlib

    own = hashlib.sha256(f"{made.id} {plan.artifact}".encode()).hexdigest()
    same = msgspec.structs.replace(
        made,
        id=f"p-{own[:8]}",
        source=plan.source,
        artifact=plan.artifact,
        quantizer=plan.quantizer,
        imatrix=plan.imatrix,
        disk=plan.disk,
        status=plan.status,
        executable_here=plan.executable_here,
    )
    return msgspec.structs.replace(step, plan=same)


def _told(step: LadderStep) -> dict[str, Any]:
    """A step for ``error.data``: all but the plan itself, which is kept."""
    told = step.to_json()
    told["plan"] = step.plan.id
    return told


def _entry(outcome: str, found: Diagnosis, plan: str, step: LadderStep | None, missing: int | None) -> Recovery:
    from advisor.deploy.spec import now

    return Recovery(
        at=now(),
        outcome=outcome,  # type: ignore[arg-type]
        diagnosis=found,
        from_plan=plan,
        to_plan=step.plan.id if step is not None else None,
        change=step.change if step is not None else None,
        given_up=step.given_up if step is not None else None,
        frees_bytes=step.frees_bytes if step is not None else None,
        missing_bytes=missing,
    )


def _write(steps: Steps, folder: Path, name: str, entry: Recovery) -> None:
    from advisor.deploy import history, statefile

    with suppress(AdvisorError):  # a folder that cannot be made keeps no history; the journal does
        statefile.make_folder(folder)
        history.add(folder, entry)
    steps.note("recovery", deployment=name, **entry.to_json())


def taking(steps: Steps, folder: Path, name: str, plan: Plan) -> None:
    """Write down that the step which was proposed last is taken, where ``plan`` is its plan."""
    from advisor.deploy import history
    from advisor.deploy.spec import now

    entry = history.proposed(folder, plan.id)
    if entry is None:
        return
    message = f"{entry.diagnosis.message} Taken: {entry.change}; given up: {entry.given_up}"
    steps.reporter(Event(kind="note", step="recover", message=message))
    _write(steps, folder, name, msgspec.structs.replace(entry, outcome="taken", at=now()))


def announced(error: AdvisorError) -> str:
    """A failure whose next step is taken, in a line."""
    ladder = error.data.get("ladder")
    if not isinstance(ladder, list) or not ladder:
        return error.message
    first = ladder[0]
    return f"{error.message} Taking the next step: {first['change']}; given up: {first['given_up']}."


def notes(entries: tuple[Recovery, ...]) -> Iterator[str]:
    """What was given up, for a receipt."""
    for e in entries:
        yield f"Recovered from lack of {_lack(e)}: {e.change}; given up: {e.given_up}."


def _lack(entry: Recovery) -> str:
    return "memory" if entry.diagnosis.cause == "out-of-memory" else "a kernel"


def was_recovered(settings: Settings, plan_id: str) -> bool:
    """Whether a deployment that is ready serves this plan because a step of the ladder led to it."""
    from advisor.api.serving import manager

    found = manager(settings).find_plan(plan_id)
    return found is not None and found.state == "ready" and bool(found.recovered)
