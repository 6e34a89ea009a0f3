"""The planner with the real cost, the real capabilities and bundled models: picks that must never be wrong again."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from advisor.backends.registry import quantizers, runtimes
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import PlanRequest, Recommendation, Settings
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from advisor.planner.estimate import estimate
from advisor.planner.recommend import recommend
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK


@cache
def sized(size: str) -> tuple[ModelFacts, Any]:
    model = resolve(size)
    return model, tensors(model)


def plan(size: str, machine: Machine, goal: str = "chat", **request: Any) -> Recommendation:
    return recommend(
        *sized(size),
        machine,
        GOALS[goal],
        PlanRequest(goal=goal, **request),
        PACK,
        runtimes={n: r.capabilities() for n, r in runtimes().items()},
        quantizers={n: q.capabilities() for n, q in quantizers().items()},
        executable_here=machine.named is None,
    )


@pytest.mark.parametrize(
    ("size", "machine", "goal", "first"),
    [
        ("8B", fakes.cpu_only, "chat", ("gguf", "q4_k_m", "llama.cpp")),
        ("8B", fakes.cpu_only, "coding", ("gguf", "q5_k_m", "llama.cpp")),
        ("8B", fakes.cpu_only, "accuracy", ("gguf", "q8_0", "llama.cpp")),
        ("0.135B", fakes.cpu_only, "chat", ("gguf", "q4_k_m", "llama.cpp")),
        ("0.135B", fakes.cpu_only, "accuracy", ("gguf", "q8_0", "llama.cpp")),
        ("8B", fakes.rtx_4090, "chat", ("awq", "w4a16-g128", "vllm")),
        ("8B", fakes.rtx_4090, "accuracy", ("none", "bf16", "vllm")),
        ("8B", fakes.rtx_4090, "fastest-deployment", ("nf4", "nf4", "transformers")),
        ("70B", fakes.rtx_4090, "chat", ("gguf", "q4_k_m", "llama.cpp")),
        ("70B", fakes.m2_ultra, "chat", ("gguf", "q4_k_m", "llama.cpp")),
    ],
)
def test_first_picks(size: str, machine: Any, goal: str, first: tuple[str, str, str]) -> None:
    best = plan(size, machine(), goal).plans[0]
    assert (best.method, best.format, best.runtime) == first
    assert best.memory.total.source and best.memory.total.value > 0
    if machine is fakes.cpu_only:
        assert best.status == "ready"


def test_nothing_fits_a_small_machine() -> None:
    found = plan("70B", fakes.tiny())
    assert found.plans == () and found.relaxations and found.rejected[0].short_by


def test_a_split_leaves_the_headroom_free() -> None:
    machine = fakes.rtx_4090()
    best = plan("70B", machine).plans[0]
    assert 0 < best.settings.gpu_layers < 80
    free = machine.devices[0].memory.free_bytes
    assert free is not None and best.memory.by_device["gpu0"].value <= free * 0.95


def test_the_same_choice_costs_the_same_in_estimate() -> None:
    machine = fakes.cpu_only()
    best = plan("8B", machine).plans[0]
    one = estimate(
        *sized("8B"), machine, method="gguf", fmt="q4_k_m", runtime="llama.cpp", settings=Settings(context=8192)
    )
    assert one.memory.total.value == best.memory.total.value
    assert one.settings == best.settings and one.fits


def test_every_plan_of_every_goal_is_supported_by_its_runtime() -> None:
    for machine in (fakes.cpu_only(), fakes.rtx_4090(), fakes.t4(), fakes.m2_ultra()):
        for goal in GOALS:
            for p in plan("8B", machine, goal, top=100).plans:
                caps = runtimes()[p.runtime].capabilities()
                assert caps.loads(p.method, p.format)
                assert p.runtime != "llama.cpp" or p.method == "gguf"
