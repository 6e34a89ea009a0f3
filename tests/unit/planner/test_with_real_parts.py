"""The planner with the real cost, the real capabilities and bundled models: picks that must never be wrong again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor.backends.registry import quantizers, runtimes
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts
from advisor.facts.plan import PlanRequest, Recommendation, Settings
from advisor.guide.load import lint, load_pack
from advisor.guide.schema import RulePack
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


def plan(size: str, machine: Machine, goal: str = "chat", *, pack: RulePack = PACK, **request: Any) -> Recommendation:
    return recommend(
        *sized(size),
        machine,
        GOALS[goal],
        PlanRequest(goal=goal, **request),
        pack,
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
        *sized("8B"),
        machine,
        method="gguf",
        fmt="q4_k_m",
        runtime="llama.cpp",
        settings=Settings(context=8192),
        pack=PACK,
    )
    assert one.memory.total.value == best.memory.total.value
    assert one.settings == best.settings and one.fits


def test_weights_that_are_repacked_are_read_not_mapped() -> None:
    found = {p.format: p for p in plan("8B", fakes.cpu_only(), top=100).plans}
    q4, q5, q8 = found["q4_k_m"], found["q5_k_m"], found["q8_0"]
    assert q4.settings.load_mode == "none" and q4.memory.repack.value == 0
    assert q4.memory.total.value < q5.memory.total.value < q8.memory.total.value
    assert q8.settings.load_mode == "mmap"  # nothing of it is repacked on x86
    assert ("GUIDE-065", "settings.load_mode=none") in {(d.rule, d.target) for d in q4.decisions}
    assert "GUIDE-065" not in {d.rule for d in q8.decisions}
    assert ("--load-mode", "none") in set(zip(q4.commands.serve[0], q4.commands.serve[0][1:], strict=False))
    assert not any(key.startswith("settings.") for p in found.values() for key in p.parameters)


def test_a_device_leaves_the_load_mode_alone() -> None:
    for machine in (fakes.rtx_4090(), fakes.m2_ultra()):
        plans = plan("8B", machine, method="gguf", runtime="llama.cpp", top=100).plans
        on_device = [p for p in plans if p.devices != ("host",)]
        assert on_device and {p.settings.load_mode for p in on_device} == {"mmap"}


MINE = """schema: advisor/rules/v1
family: mine
rules:
  - id: MINE-001
    name: always-mapped
    kind: set
    key: settings.load_mode
    value: mmap
    overrides: [GUIDE-065]
    when: {candidate.method: gguf}
    because: Several servers here share one mapped file, so that it is in memory once for all of them.
    sources: [{title: me}]
    examples:
      fires: [{candidate.method: gguf}]
      silent: [{candidate.method: awq}]
"""


def test_a_rule_of_ones_own_maps_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    pack = load_pack(overlay=tmp_path)
    assert pack.problems == () and lint(overlay=tmp_path) == ()
    machine = fakes.cpu_only()
    own = {p.format: p for p in plan("8B", machine, pack=pack, top=100).plans}["q4_k_m"]
    bundled = {p.format: p for p in plan("8B", machine, top=100).plans}["q4_k_m"]
    assert own.settings.load_mode == "mmap" and own.id != bundled.id
    assert own.memory.repack.value > 3e9
    left = bundled.memory.overhead.value - own.memory.overhead.value  # of the buffer for reading, in the heap
    assert own.memory.total.value - own.memory.repack.value == bundled.memory.total.value - left
    one = estimate(
        *sized("8B"),
        machine,
        method="gguf",
        fmt="q4_k_m",
        runtime="llama.cpp",
        settings=Settings(context=8192),
        pack=pack,
    )
    assert one.memory.total.value == own.memory.total.value


def test_thirty_billion_weights_with_experts_fit_24_gb() -> None:
    model = resolve("Qwen/Qwen3-30B-A3B")
    base = fakes.cpu_only()
    memory = msgspec.structs.replace(
        base.host.memory, total_bytes=24 * 10**9, limit_bytes=None, available_bytes=23 * 10**9
    )
    machine = msgspec.structs.replace(base, host=msgspec.structs.replace(base.host, memory=memory))
    found = recommend(
        model,
        tensors(model),
        machine,
        GOALS["chat"],
        PlanRequest(),
        PACK,
        runtimes={n: r.capabilities() for n, r in runtimes().items()},
        quantizers={n: q.capabilities() for n, q in quantizers().items()},
        executable_here=False,
    )
    best = found.plans[0]
    assert (best.format, best.settings.load_mode) == ("q4_k_m", "none")
    assert best.memory.total.value < 20e9
    (short,) = (r for r in found.rejected if r.rule == "MEM-001" and r.runtime == "llama.cpp")
    assert short.short_by and not any("split" in text for text in short.instead)


def test_with_an_accelerator_a_split_is_named() -> None:
    found = plan("70B", fakes.rtx_4090())
    short = [r for r in found.rejected if r.short_by]
    assert short and {r.rule for r in short} == {"MEM-004"}
    assert all(any("split" in text for text in r.instead) for r in short)


def test_every_plan_of_every_goal_is_supported_by_its_runtime() -> None:
    for machine in (fakes.cpu_only(), fakes.rtx_4090(), fakes.t4(), fakes.m2_ultra()):
        for goal in GOALS:
            for p in plan("8B", machine, goal, top=100).plans:
                caps = runtimes()[p.runtime].capabilities()
                assert caps.loads(p.method, p.format)
                assert p.runtime != "llama.cpp" or p.method == "gguf"
