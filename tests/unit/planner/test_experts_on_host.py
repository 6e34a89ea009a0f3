"""A model with experts on a card that does not hold it all: the rest goes on the card, experts to the host."""

from __future__ import annotations

from advisor.facts.plan import Goal, PlanRequest
from advisor.planner.candidate import Candidate
from advisor.planner.costing import Costing
from advisor.planner.targets import Target
from tests.support import shapes

MOE = shapes.KNOWN["qwen3-30b-a3b"]
GOAL = Goal(
    id="chat", description="", context=8192, parallel=1, min_decode_tps=None, weights={"speed": 1.0}, because=""
)


def costing(arch: shapes.Arch, gib: int) -> tuple[Costing, Candidate]:
    card = shapes.gpu(memory=gib << 30)
    machine = shapes.machine(card, bandwidth=50_000_000_000)
    found = Costing(shapes.facts(arch), shapes.tensors(arch), machine, GOAL, PlanRequest())
    target = Target("split", "nvidia", (card,), ("gpu0", "host"))
    return found, Candidate("gguf", "q4_k_m", "llama.cpp", target, None, "quantize")


def test_experts_of_some_layers_stay_on_the_host() -> None:
    planner, candidate = costing(MOE, 12)
    settled = planner.settle(candidate, imatrix=False)
    assert settled is not None
    settings, cost, fit = settled
    assert settings.gpu_layers == MOE.layers + 1
    assert 0 < settings.cpu_moe_layers <= MOE.layers
    assert fit.fits
    assert cost.memory.by_device["gpu0"].value <= 0.95 * (12 << 30)
    by_layers = planner.cost(
        candidate, settings.__class__(context=settings.context, threads=settings.threads, gpu_layers=18), imatrix=False
    )
    assert cost.speed.decode is not None
    assert by_layers.speed.decode is not None
    assert cost.speed.decode.value > by_layers.speed.decode.value


def test_layers_are_counted_where_the_rest_alone_does_not_fit_or_there_are_no_experts() -> None:
    planner, candidate = costing(MOE, 2)
    settings = planner.settings(candidate)
    assert settings is None or settings.cpu_moe_layers == 0
    planner, candidate = costing(shapes.KNOWN["llama-3.3-70b"], 24)
    settings = planner.settings(candidate)
    assert settings is not None
    assert settings.cpu_moe_layers == 0
    assert 0 < settings.gpu_layers < 80
