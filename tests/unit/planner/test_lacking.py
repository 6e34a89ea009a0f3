"""Ways whose kernels lacked on this machine: which they are, and how plans and reasons tell of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from advisor.facts.machine import Machine
from advisor.facts.plan import PlanRequest, Recommendation
from advisor.facts.recovery import KernelLesson
from advisor.planner.explain import rejected_texts
from advisor.planner.lacking import Lacking, speaks_of, words
from advisor.planner.recommend import recommend
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import GOALS, PACK

CARD = "NVIDIA GeForce RTX 4090"


def lesson(**more: Any) -> KernelLesson:
    values: dict[str, Any] = {
        "runtime": "llama.cpp", "engine": "path b9000 1a2b3c4", "method": "gguf", "format": None, "devices": ("cpu",),
        "plan": "p-0000aa", "code": "illegal-instruction", "evidence": "Illegal instruction (core dumped)",
        "learned_at": "2026-11-21T10:00:00Z",
    }  # fmt: skip
    return KernelLesson(**(values | more))


def plan(machine: Machine, *lessons: KernelLesson, goal: str = "chat", **request: Any) -> Recommendation:
    m = fakes.model(8.0)
    return recommend(
        *(m, fakes.tensors(m), machine, GOALS[goal], PlanRequest(goal=goal, **request), PACK),
        runtimes=fakes.runtimes(),
        quantizers=fakes.quantizers(),
        executable_here=True,
        cost_fn=fakes.fake_cost,
        layers_fn=fakes.fake_layers,
        lacking=Lacking(lessons, machine) if lessons else None,
    )


@pytest.mark.parametrize(
    ("taught", "asked", "meant"),
    [
        ({}, ("llama.cpp", "gguf", "q4_k_m", ("cpu",)), True),
        ({}, ("llama.cpp", "gguf", "q8_0", ("cpu",)), True),  # one set of kernels serves all types
        ({}, ("llama-cpp-python", "gguf", "q4_k_m", ("cpu",)), False),
        ({}, ("llama.cpp", "gguf", "q4_k_m", (CARD, "cpu")), False),  # another build serves beside a card
        ({"devices": (CARD,)}, ("llama.cpp", "gguf", "q4_k_m", (CARD, "cpu")), True),
        ({"devices": (CARD,)}, ("llama.cpp", "gguf", "q4_k_m", ("cpu",)), False),
        ({"devices": (CARD, "cpu")}, ("llama.cpp", "gguf", "q4_k_m", (CARD,)), False),
        ({"method": "awq", "format": "w4a16-g128"}, ("llama.cpp", "awq", "w4a16-g128", ("cpu",)), True),
        ({"method": "awq", "format": "w4a16-g128"}, ("llama.cpp", "awq", "w4a16-g32", ("cpu",)), False),
    ],
)
def test_what_a_lesson_speaks_of(taught: dict[str, Any], asked: tuple[Any, ...], meant: bool) -> None:
    assert speaks_of(lesson(**taught), *asked) is meant


def test_a_way_that_lacked_kernels_is_out_with_the_lesson_as_its_reason() -> None:
    machine = fakes.cpu_only()
    assert plan(machine).plans[0].runtime == "llama.cpp"
    found = plan(machine, lesson())
    assert "llama.cpp" not in {p.runtime for p in found.plans}
    (out,) = [r for r in found.rejected if r.rule == "RT-905"]
    assert (out.runtime, out.method) == ("llama.cpp", "gguf")
    for part in ("2026-11-21", "p-0000aa", "path b9000 1a2b3c4", "Illegal instruction [core dumped]"):
        assert part in out.because
    assert out.because.endswith("to try it again: advisor bench --forget.)")
    (line,) = [text for text in rejected_texts(found.rejected) if "(RT-905)" in text]
    assert "advisor bench --forget" in line


def test_the_next_program_around_the_same_engine_takes_its_place() -> None:
    machine = fakes.cpu_only()
    before = {(r.runtime, r.rule) for r in plan(machine).rejected if r.method == "gguf"}
    after = plan(machine, lesson())
    out = {(r.runtime, r.rule) for r in after.rejected if r.method == "gguf"}
    assert ("ollama", "RT-903") in before
    assert ("ollama", "RT-903") not in out


def test_only_the_devices_that_lacked_are_left() -> None:
    machine = msgspec.structs.replace(fakes.rtx_4090(), named=None)
    wish = {"runtime": "llama.cpp", "top": 50}
    assert any("gpu0" in p.devices for p in plan(machine, **wish).plans)
    left = plan(machine, lesson(devices=(CARD,)), **wish).plans
    assert left and {p.devices for p in left} == {("host",)}


def test_of_a_checkpoint_only_that_format_is_left_out() -> None:
    machine = msgspec.structs.replace(fakes.rtx_4090(), named=None)
    taught = lesson(runtime="vllm", engine="environment 0.33.0", method="awq", format="w4a16-g128", devices=(CARD,))
    wish = {"runtime": "vllm", "top": 50}
    before = {(p.method, p.format, *p.devices) for p in plan(machine, goal="serving", **wish).plans}
    after = {(p.method, p.format, *p.devices) for p in plan(machine, taught, goal="serving", **wish).plans}
    assert before - after == {("awq", "w4a16-g128", "gpu0")}


def test_notes_name_way_reason_and_reset() -> None:
    machine = fakes.cpu_only()
    (note,) = Lacking((lesson(),), machine).notes()
    assert note.startswith("gguf in llama.cpp on cpu is not planned here, for lack of kernels: learned on 2026-11-21 ")
    assert note.endswith(words(lesson()))


def test_the_latest_lesson_is_told() -> None:
    found = Lacking((lesson(), lesson(plan="p-0000bb", engine="wheel 1")), fakes.cpu_only())
    told = found.find("llama.cpp", "gguf", "q4_k_m", ("host",))
    assert told is not None and told.plan == "p-0000bb"
