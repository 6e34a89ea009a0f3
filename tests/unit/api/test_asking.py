"""What the engine says of a plan before it is launched: more layers, fewer, none, and nothing at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import settings as settings_
from advisor.api import asking, planning
from advisor.api.making import Made
from advisor.api.planning import recommend
from advisor.api.providing import Serving
from advisor.backends.llama.binary import SERVER, Binary
from advisor.cost.llama_memory import device_context
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute import envs, offload
from advisor.execute.answers import Answers, Engine
from advisor.execute.engines import library_name
from advisor.execute.envs import Env
from advisor.execute.llama.fit import TOOL, spared_bytes
from advisor.execute.offload import Loaded, Offload
from advisor.execute.oracle import Answer, DryLoad
from advisor.execute.steps import Steps
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan, Settings
from advisor.model.resolve import resolve
from advisor.planner import refining
from tests.unit.planner import planner_fakes as fakes

MODEL = resolve("70B")
ENV = Env(name="llama.cpp", path="/env", python="/env/bin/python")
# Answers as the tool does: so much for each layer, nothing where it is told to fail.
FIT = """#!{python} -I
import sys
def given(option, other):
    return int(sys.argv[sys.argv.index(option) + 1]) if option in sys.argv else other
with open({calls!r}, "a") as f:
    f.write(" ".join(sys.argv[1:]) + "\\n")
layers = given("-ngl", 0) if {by!r} == "-ngl" else 80 - given("-ncmoe", 0)
if {fails}:
    sys.exit("failed to fit")
print("noise")
print(f"CUDA0 {{int({model} * layers)}} {{int({cache} * layers)}} {compute}")
print("Host 300 20 40")
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = fakes.rtx_4090()
    monkeypatch.setattr(planning, "own_machine", lambda _: machine)
    return machine


def split_plan(**changes: Any) -> Plan:
    report = recommend("70B", machine=fakes.rtx_4090(), settings=None, top=20, runtime="llama.cpp", method="gguf")
    plan = next(p for p in report.plans if p.devices == ("gpu0", "host"))
    return msgspec.structs.replace(plan, settings=msgspec.structs.replace(plan.settings, **changes))


def serving(folder: Path, version: str | None = "0.5.0", **habits: Any) -> Serving:
    """A llama.cpp whose tool for dry loads has those habits."""
    tool = folder / TOOL
    script: dict[str, Any] = {"by": "-ngl", "fails": False, "model": 500, "cache": 32, "compute": 600, **habits}
    tool.write_text(FIT.format(python=sys.executable, calls=str(folder / "calls"), **script))
    tool.chmod(0o755)
    return Serving("path", Binary(tools={SERVER: str(folder / SERVER), TOOL: str(tool)}, version=version))


def ask(tmp_path: Path, plan: Plan, by: Serving, *, memory: bool = True) -> tuple[Plan, str]:
    home = settings_.load(env={"ADVISOR_HOME": str(tmp_path / "home")})
    steps = Steps(cancel=Cancel())
    made = Made(tmp_path / "m.gguf", None, False, {}, None, ())
    new = asking.corrected(home, steps, plan, MODEL, made, ENV, by, memory=memory)
    (record,) = steps.records
    assert record.name == "ask-engine"
    return new, record.detail or ""


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_as_many_layers_as_the_engine_finds_room_for(tmp_path: Path, machine: Machine) -> None:
    plan = split_plan()
    new, detail = ask(tmp_path, plan, serving(tmp_path, model=400))
    room = refining.room(machine, "gpu0")
    assert room is not None
    # Of the printed numbers each may be a MiB more; the work buffer is one that the formula bounds from above.
    most = (room - (600 << 20)) // (432 << 20)
    assert plan.settings.gpu_layers < most - 3
    assert new.settings.gpu_layers in (most - 1, most, most + 1)
    assert detail.startswith(
        f"the engine has room for {new.settings.gpu_layers} layers; the formulas said {plan.settings.gpu_layers}; gpu0:"
    )
    assert new.id == plan.id
    told = new.memory.by_device["gpu0"]
    assert told.method == "engine"
    assert told.high - device_context(machine, "gpu0").high <= room
    assert len(asked(tmp_path)) == len(set(asked(tmp_path))) <= 10
    assert f"-ngl {new.settings.gpu_layers} " in " ".join(asked(tmp_path)) + " "


def test_fewer_where_the_engine_needs_more(tmp_path: Path, machine: Machine) -> None:
    plan = split_plan()
    new, detail = ask(tmp_path, plan, serving(tmp_path, model=600))
    assert 0 < new.settings.gpu_layers < plan.settings.gpu_layers
    assert f"the engine has room for {new.settings.gpu_layers} layers; the formulas said" in detail


def test_experts_move_as_layers_do(tmp_path: Path, machine: Machine) -> None:
    plan = split_plan(gpu_layers=81, cpu_moe_layers=60)
    new, detail = ask(tmp_path, plan, serving(tmp_path, by="-ncmoe"))
    assert new.settings.gpu_layers == 81
    on_device = 80 - new.settings.cpu_moe_layers
    assert on_device > 20
    assert f"the experts of {on_device} layers; the formulas said 20" in detail


def test_what_already_is_the_most_stays(tmp_path: Path, machine: Machine) -> None:
    tool = serving(tmp_path)
    first, _ = ask(tmp_path, split_plan(), tool)
    again, detail = ask(tmp_path, first, tool)
    assert again.settings == first.settings
    assert f"room for {first.settings.gpu_layers} layers, as the formulas said" in detail


@pytest.mark.parametrize("habits", [{"fails": True}, {"by": "none", "compute": "word"}])
def test_a_tool_that_does_not_answer_leaves_the_formulas(
    tmp_path: Path, machine: Machine, habits: dict[str, Any]
) -> None:
    plan = split_plan()
    assert ask(tmp_path, plan, serving(tmp_path, **habits)) == (plan, asking._UNASKED)


def test_nobody_to_ask_leaves_the_formulas(tmp_path: Path, machine: Machine) -> None:
    plan = split_plan()
    for nobody in (Serving("path", Binary(tools={SERVER: "llama-server"})), Serving("wheel", None)):
        assert ask(tmp_path, plan, nobody) == (plan, asking._UNASKED)


def test_a_tool_that_fails_above_the_plan_is_no_leave_to_go_there(tmp_path: Path, machine: Machine) -> None:
    plan = split_plan()
    new, _ = ask(tmp_path, plan, serving(tmp_path, model=100, fails=f"layers > {plan.settings.gpu_layers}"))
    assert new.settings == plan.settings
    assert new.memory.by_device["gpu0"].method == "engine"


def test_no_room_at_all_is_refused(tmp_path: Path, machine: Machine) -> None:
    with pytest.raises(AdvisorError) as e:
        ask(tmp_path, split_plan(), serving(tmp_path, model=30000))
    assert e.value.code == "not-enough-memory"
    assert "gpu0 needs" in e.value.message
    assert e.value.data["devices"]["gpu0"] > 24 << 30


def test_a_model_that_lies_on_the_device_as_a_whole(tmp_path: Path, machine: Machine) -> None:
    plan = recommend("8B", machine=machine, settings=None, top=20, runtime="llama.cpp", method="gguf").plans[0]
    assert plan.devices == ("gpu0",)
    new, detail = ask(tmp_path, plan, serving(tmp_path, model=200, cache=1))
    assert new.settings == plan.settings
    assert new.memory.by_device["gpu0"].method == "engine"
    assert detail.startswith("gpu0: ")
    with pytest.raises(AdvisorError) as e:
        ask(tmp_path, plan, serving(tmp_path, model=3000))
    assert e.value.code == "not-enough-memory"


def test_a_server_that_runs_is_not_asked_about(tmp_path: Path, machine: Machine) -> None:
    plan = split_plan()
    new, detail = ask(tmp_path, plan, serving(tmp_path), memory=False)
    assert new is plan
    assert "runs already" in detail
    assert not (tmp_path / "calls").exists()


def test_without_a_tool_the_library_for_trial_loads_is_asked(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"name": "Vulkan0"}
    seen: list[int] = []

    def dry(_: Offload, path: Path, settings: Settings) -> Loaded:
        seen.append(settings.gpu_layers)
        there = {"weights": settings.gpu_layers * 450 << 20, "kv": settings.gpu_layers << 25, "compute": 700 << 20}
        return Loaded({"Vulkan0": there, "host": {}}, settings.gpu_layers, 81, 0, devices=tuple(cards))

    cards = [card]
    monkeypatch.setattr(envs, "find", lambda *_, **__: Env(name=offload.ENV, path="/env", python="/env/bin/python"))
    monkeypatch.setattr(Offload, "dry", dry)
    plan, server = split_plan(), Serving("wheel", Binary(tools={SERVER: "llama-server"}, number=10434))
    new, detail = ask(tmp_path, plan, server)
    assert new.settings.gpu_layers > plan.settings.gpu_layers
    assert "the engine has room for" in detail
    assert "another build" in new.memory.by_device["gpu0"].source
    assert len(seen) == len(set(seen))
    cards.append(card)  # two devices where the plan is for one: nobody can tell which is meant
    assert ask(tmp_path, plan, server) == (plan, asking._UNASKED)


def test_rows_of_logits_that_a_server_does_not_reserve() -> None:
    def spared(version: str | None, number: int | None, **settings: Any) -> int:
        binary = Binary(tools={}, version=version, number=number)
        return spared_bytes(binary, Settings(context=4096, **settings), 1000)

    assert spared("0.5.0-dev", None) == spared(None, 11739) == spared(None, 10434) == 4 * 1000 * 511
    assert spared("0.5.0", None, parallel=4, ubatch=64) == 4 * 1000 * 60
    assert spared("0.5.0", None, parallel=8, ubatch=4) == 0
    assert spared(None, 9190) == spared(None, None) == spared("dev", None) == 0


def test_what_the_library_says_of_a_plan_on_the_host_is_kept(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Answer(kv_cache_bytes=9 << 20, compute_bytes=8 << 20, weights_bytes=None, output_bytes=7)
    monkeypatch.setattr(DryLoad, "file", lambda *_: said)
    plan = next(p for p in recommend("70B", machine=machine, settings=None, top=20, method="gguf").plans)
    plan = msgspec.structs.replace(plan, devices=("host",), settings=Settings(context=4096))
    new, detail = ask(tmp_path, plan, Serving("wheel", None))
    assert (new.memory.kv_cache.value, new.memory.kv_cache.method) == (9 << 20, "engine")
    assert detail.startswith("the engine takes")
    home = settings_.load(env={"ADVISOR_HOME": str(tmp_path / "home")})
    library = Engine(library_name(ENV.digest), lambda *_: None)
    kept = Answers(home, lambda: [library])(MODEL, plan.format, plan.settings)
    assert kept is not None and kept.compute_bytes == 8 << 20


def test_the_tool_of_a_program_is_asked_where_the_library_does_not_know_the_model(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DryLoad, "file", lambda *_: None)
    plan = next(p for p in recommend("70B", machine=machine, settings=None, top=20, method="gguf").plans)
    plan = msgspec.structs.replace(plan, devices=("host",), settings=Settings(context=4096))
    by = serving(tmp_path)
    assert ask(tmp_path, plan, by) == (plan, asking._UNASKED)  # it names a device: another way of serving
    tool = Path(by.binary.tools[TOOL]) if by.binary is not None else tmp_path
    tool.write_text(tool.read_text().replace('print(f"CUDA0', '0 and print(f"CUDA0'))
    new, detail = ask(tmp_path, plan, by)
    assert new.memory.compute.method == "engine"
    assert detail.startswith("the engine takes")
    assert " -ngl 0 " in asked(tmp_path)[-1]
