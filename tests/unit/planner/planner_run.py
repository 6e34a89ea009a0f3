"""Plans with the fakes."""

from __future__ import annotations

from typing import Any

from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import PlanRequest, Recommendation
from advisor.guide.load import load_pack
from advisor.guide.schema import RulePack
from advisor.planner import goals
from advisor.planner.recommend import recommend
from tests.unit.planner.planner_fakes import fake_cost, fake_layers, model, quantizers, runtimes, tensors

PACK = load_pack()
GOALS = goals.load()


def plan(
    size: float | ModelFacts, machine: Machine, goal: str = "chat", *, pack: RulePack = PACK, **request: Any
) -> Recommendation:
    m = size if isinstance(size, ModelFacts) else model(size)
    return recommend(
        m,
        tensors(m),
        machine,
        GOALS[goal],
        PlanRequest(goal=goal, **request),
        pack,
        runtimes=runtimes(),
        quantizers=quantizers(),
        executable_here=machine.named is None,
        cost_fn=fake_cost,
        layers_fn=fake_layers,
    )


def picks(found: Recommendation) -> list[tuple[str, str, str]]:
    return [(p.method, p.format, p.runtime) for p in found.plans]
