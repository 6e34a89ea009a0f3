"""Measuring a running deployment as a client sees it: through its OpenAI endpoint, streaming, one request at a time."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from advisor.api import keeping, learning
from advisor.api.context import resolve_model
from advisor.api.launching import read_key
from advisor.errors import AdvisorError
from advisor.facts.bench import ENOUGH_CPU_SERVER, Bench, BenchPoint, BenchRun, Measurement
from advisor.planner.candidate import LLAMA_ENGINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.deploy.manager import Deployments
    from advisor.execute.steps import Steps
    from advisor.facts.machine import Machine
    from advisor.facts.model import ModelFacts
    from advisor.facts.plan import Plan
    from advisor.facts.results import Deployment
    from advisor.settings import Settings

_TOKENS: Final = 64
_WARM_UP: Final = (32, 8)


def measure(
    s: Settings, steps: Steps, deployment: Deployment, machine: Machine, *, depths: Sequence[int], repeat: int
) -> tuple[Bench, tuple[Measurement, ...]]:
    """The speed of ``deployment``, and what of it later predictions can use: all, where its plan is still kept.

    Raises:
        AdvisorError: ``server-failed``, ``server-timeout``, ``smoke-failed``, ``not-running``, ``interrupted``.
    """
    from advisor.api.serving import manager
    from advisor.execute import speeds
    from advisor.execute.measurements import machine_key, now
    from advisor.execute.steps import Outcome, Step

    deployments, key = manager(s), read_key(deployment.api_key_file)
    plan = _plan(s, deployments, deployment)
    # Only llama.cpp's threads spin while they wait, so that their CPU time tells whether they had their cores.
    spins = plan is not None and plan.devices in ((), ("host",)) and plan.runtime in LLAMA_ENGINES
    threads = plan.settings.threads if plan is not None and spins else None
    notes: list[str] = []
    usable = _depths(depths, plan, notes)
    load = [_load()]

    def run() -> Outcome[tuple[BenchPoint, ...]]:
        _, clock = _one(deployments, deployment, key, *_WARM_UP, threads)
        runs: list[BenchRun] = []
        for depth in usable * repeat:
            steps.cancel.check()
            runs.append(_one(deployments, deployment, key, depth, _TOKENS, threads)[0])
            _tell(steps, len(runs), repeat * len(usable))
        return Outcome(speeds.points(runs, source=clock, enough=ENOUGH_CPU_SERVER), detail=f"{len(runs)} runs")

    points = steps.do(Step("measure", run))
    load.append(_load())
    busy = any(p.busy for p in points)
    if busy:
        notes.append(
            "The machine was busy: the server did not get all the CPU time that its threads wanted, so that no "
            "prediction follows this. Measure again when it is quiet."
        )
    model = _model(s, deployment, plan)
    measured = _measurements(plan, model, machine, deployment, points) if plan is not None and model is not None else ()
    if not measured:
        why = "its plan is not kept any more" if plan is None or model is None else "it passes requests on to a daemon"
        notes.append(f"Later predictions do not learn from {deployment.name}: {why}.")
    return (
        Bench(
            target=deployment.name,
            kind="deployment",
            what=f"The endpoint {deployment.openai_base_url}, streaming, one request at a time, prompts never seen "
            "before: decode from the first token to the last, prefill from sending to the first token unless the "
            "server says itself.",
            model=model.name if model is not None else deployment.model,
            method=plan.method if plan is not None else "none",
            format=plan.format if plan is not None else "unknown",
            runtime=deployment.runtime,
            engine=learning.engine_label(machine, deployment.runtime, deployment.provider),
            artifact=deployment.artifact,
            machine=machine_key(machine),
            cores_granted=machine.host.cpu.cores_granted,
            cores_logical=machine.host.cpu.cores_logical,
            load=tuple(x for x in load if x is not None),
            busy=busy,
            points=points,
            best_threads=threads,
            notes=tuple(notes),
            measured_at=now(),
        ),
        measured,
    )


def _plan(s: Settings, deployments: Deployments, deployment: Deployment) -> Plan | None:
    """The kept plan, with the threads that the server was really started with."""
    from advisor.deploy.observe import read_spec

    try:
        plan = keeping.find(s, deployment.plan_id).plan
        argv = read_spec(deployments.folder(deployment.name)).argv
    except AdvisorError:
        return None
    given = next((b for a, b in pairwise(argv) if a in ("--threads", "-t")), "")
    if not given.isdigit():
        return plan
    return msgspec.structs.replace(plan, settings=msgspec.structs.replace(plan.settings, threads=int(given)))


def _depths(depths: Sequence[int], plan: Plan | None, notes: list[str]) -> tuple[int, ...]:
    """Those that one slot of the server has room for."""
    if plan is None:
        return tuple(sorted(depths))
    # Prompts come out a little longer than asked for, and the answer needs its room, too.
    room = int((plan.settings.context // max(1, plan.settings.parallel) - _TOKENS) / 1.3) - 64
    good = tuple(sorted(d for d in depths if d <= room))
    if len(good) < len(depths):
        left = ", ".join(str(d) for d in sorted(depths) if d > room)
        notes.append(f"Depth {left} was left out: the server has {plan.settings.context} tokens of context.")
    if not good:
        good = (max(1, min(room, min(depths))),)
    return good


def _one(
    deployments: Deployments, d: Deployment, key: str | None, depth: int, tokens: int, threads: int | None
) -> tuple[BenchRun, str]:
    """One request: a prompt of at least ``depth`` tokens, then ``tokens``."""
    from advisor.deploy import cpu_time
    from advisor.deploy.measure import OWN_CLOCK
    from advisor.deploy.measure import measure as ask

    before, begun = cpu_time.spent(deployments.pids(d.name)), time.monotonic()
    found = ask(
        d.openai_base_url, d.model, prompt_tokens=depth, max_tokens=tokens, repeat=1, use_chat=False, api_key=key
    )
    wall = time.monotonic() - begun
    after = cpu_time.spent(deployments.pids(d.name))
    run = BenchRun(
        depth=depth,
        threads=threads,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        prefill=float(found.prefill.value) if found.prefill is not None else None,
        decode=float(found.decode.value) if found.decode is not None else None,
        wall_s=wall,
        cpu_s=max(0.0, after - before) if before is not None and after is not None else None,
    )
    clock = found.decode or found.prefill or found.first_token_s
    return run, (clock.source.partition(";")[0] if clock is not None else OWN_CLOCK)


def _tell(steps: Steps, done: int, total: int) -> None:
    from advisor.events import Event

    steps.reporter(Event(kind="progress", step="measure", done=done, total=total, unit="runs"))


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _model(s: Settings, deployment: Deployment, plan: Plan | None) -> ModelFacts | None:
    """Facts of what is served: of its plan's model, which has the names of formats, else of the artifact."""
    refs = [keeping.find(s, plan.id).model_ref] if plan is not None else []
    for ref in (*refs, deployment.artifact):
        try:
            return resolve_model(ref, s)
        except AdvisorError:
            continue
    return None


def _measurements(
    plan: Plan, model: ModelFacts, machine: Machine, deployment: Deployment, points: tuple[BenchPoint, ...]
) -> tuple[Measurement, ...]:
    from advisor.execute.measurements import now
    from advisor.model.tensors import tensors
    from advisor.planner.token_work import device_names, shape_of, work_of

    if plan.runtime == "ollama":
        return ()
    parts, out = tensors(model), []
    for p in points:
        middle = sorted(r.prompt_tokens for r in p.runs)[len(p.runs) // 2]
        out.append(
            Measurement(
                runtime=plan.runtime,
                engine=learning.engine_label(machine, plan.runtime, deployment.provider),
                method=plan.method,
                format=plan.made_as,
                model=model.name,
                shape=shape_of(model),
                devices=device_names(machine, plan.devices or ("host",)),
                threads=plan.settings.threads,
                depth=p.depth,
                kv_type=plan.settings.kv_type,
                work=work_of(
                    model,
                    parts,
                    method=plan.method,
                    fmt=plan.made_as,
                    settings=plan.settings,
                    depth=middle + _TOKENS // 2,
                    imatrix=plan.imatrix,
                    as_is=True if plan.method == "gguf" and plan.source == "as-is" else None,
                ),
                decode=p.decode,
                prefill=p.prefill,
                origin="bench",
                gpu_layers=plan.settings.gpu_layers,
                cpu_moe_layers=plan.settings.cpu_moe_layers,
                runs=len(p.runs),
                busy=p.busy,
                measured_at=now(),
            )
        )
    return tuple(out)
