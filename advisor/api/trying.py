"""The number of threads of a launch, tried where the planned one may be wrong: on shared cores or under a quota."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from advisor.api import learning
from advisor.errors import AdvisorError
from advisor.facts.plan import Commands, Plan
from advisor.planner.candidate import LLAMA_ENGINES

if TYPE_CHECKING:
    from pathlib import Path

    from advisor.execute.envs import Env
    from advisor.execute.steps import Steps
    from advisor.facts.bench import ThreadChoice
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts
    from advisor.settings import Settings


def tuned(
    settings: Settings, steps: Steps, plan: Plan, model: ModelFacts, machine: Machine, artifact: Path, env: Env
) -> Plan:
    """The plan with the number of threads that decodes fastest now, as a step where one has to be tried.

    The plan keeps its id, which names the choice that was made. A trial that fails leaves the plan as it is.

    Raises:
        AdvisorError: ``interrupted``.
    """
    from advisor.execute import threads
    from advisor.execute.steps import Outcome, Step

    planned = plan.settings.threads
    if plan.method != "gguf" or plan.runtime not in LLAMA_ENGINES or plan.settings.gpu_layers or planned is None:
        return plan
    because = threads.reason(machine)
    if because is None or len(threads.candidates(machine.host.cpu.cores_granted, planned)) < 2:
        return plan

    def run() -> Outcome[Plan]:
        known = _known(settings, machine, model, plan.made_as, because)
        if known is not None:
            return Outcome(with_threads(plan, known.threads), reused=True, detail=_words(known, planned))
        try:
            found = _tried(settings, steps, plan, model, machine, artifact, env, because)
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            return Outcome(plan, detail=f"the planned {planned} stand: {e.message}")
        if found is None:
            return Outcome(plan, detail=f"the planned {planned} stand")
        problem = learning.keep(settings, machine, threads=(found,))
        detail = _words(found, planned)
        return Outcome(with_threads(plan, found.threads), detail=f"{detail}; {problem}" if problem else detail)

    return steps.do(Step("threads", run))


def _tried(
    settings: Settings,
    steps: Steps,
    plan: Plan,
    model: ModelFacts,
    machine: Machine,
    artifact: Path,
    env: Env,
    because: str,
) -> ThreadChoice | None:
    from pathlib import Path

    from advisor.execute import threads
    from advisor.execute.disk import make_folders
    from advisor.execute.speeds import Driver
    from advisor.planner.token_work import shape_of

    folder = settings.paths.logs / "steps"
    make_folders(folder)
    driver = Driver(env, folder / "threads.log", Path(settings.paths.cache), steps.reporter, steps.cancel)
    return threads.choose(
        driver,
        artifact,
        machine,
        planned=plan.settings.threads or 1,
        because=because,
        shape=shape_of(model),
        fmt=plan.made_as,
    )


def _known(settings: Settings, machine: Machine, model: ModelFacts, fmt: str, because: str) -> ThreadChoice | None:
    """The answer of an earlier trial. What others use changes from hour to hour, so only a quota's is taken."""
    from advisor.execute import measurements, threads
    from advisor.planner.token_work import shape_of

    if because != threads.QUOTA:
        return None
    kept = measurements.load(settings, machine).kept.threads
    granted, shape = machine.host.cpu.cores_granted, shape_of(model)
    found = [t for t in kept if (t.shape, t.format, t.granted, t.because) == (shape, fmt, granted, because)]
    return found[-1] if found else None


def _words(found: ThreadChoice, planned: int) -> str:
    rates = ", ".join(f"{n}: {rate:.1f} tok/s" for n, rate in found.tried.items())
    said = "as planned" if found.threads == planned else f"instead of {planned}"
    return f"{found.threads} threads {said} ({rates})"


def with_threads(plan: Plan, threads: int) -> Plan:
    """The plan with another number of threads, in its settings and its commands."""
    if threads == plan.settings.threads:
        return plan
    named = ("--threads", "--threads-batch", "-t", "-tb", "--n_threads", "--n_threads_batch")
    serve = tuple(
        tuple(str(threads) if before in named else word for before, word in zip(("", *argv), argv, strict=False))
        for argv in plan.commands.serve
    )
    return msgspec.structs.replace(
        plan,
        settings=msgspec.structs.replace(plan.settings, threads=threads),
        commands=Commands(quantize=plan.commands.quantize, serve=serve),
    )
