"""Listing, building and looking over environments with variants; nothing is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from advisor import settings
from advisor.api import context, environments
from advisor.backends.pins import BackendPins
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute import env_build
from advisor.facts.machine import Machine
from advisor.probes.record import load_machine
from advisor.settings import Settings
from tests.unit.probes.fake import MACHINES


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")})


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The machine under test, which a test may exchange; and a build that installs nothing."""
    here = [load_machine(MACHINES / "one-cpu-affinity").machine]

    def build(pins: BackendPins, folder: Path, _python: Any, **_: Any) -> dict[str, Any]:
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)
        return {"devices": ["cpu"], "seconds": 3.2, "variant": pins.variant}

    def checked(pins: BackendPins, *_: Any, **__: Any) -> dict[str, Any]:
        return {"devices": ["cpu", "cuda:0 A card"], "seconds": 3.2}

    monkeypatch.setattr(context, "this_machine", lambda *_: (here[0], None))
    monkeypatch.setattr(env_build, "build", build)
    monkeypatch.setattr(env_build, "check_health", checked)
    return here


def test_the_machine_decides_the_variant_that_is_built(home: Settings, machine: list[Machine]) -> None:
    assert environments.env_build("vllm", settings=home).variant == "cpu"
    machine[0] = load_machine(MACHINES / "gb10-unified").machine
    made = environments.env_build("vllm", settings=home)
    assert (made.variant, made.complete, made.built, made.current) == ("cuda", True, True, True)
    assert made.purpose is not None
    assert [e.variant for e in environments.env_list(settings=home)] in (["cpu", "cuda"], ["cuda", "cpu"])
    assert environments.env_build("convert", settings=home).variant is None


def test_an_old_driver_is_told_where_the_cpu_is_taken(home: Settings, machine: list[Machine]) -> None:
    machine[0] = load_machine(MACHINES / "rtx-4090-desktop").machine
    events: list[Event] = []
    assert environments.env_build("vllm", settings=home, reporter=events.append).variant == "cpu"
    assert any("550.144.03" in e.message and e.kind == "note" for e in events)


def test_another_variant_is_built_when_asked_with_a_warning(home: Settings) -> None:
    events: list[Event] = []
    assert environments.env_build("vllm", variant="cuda", settings=home, reporter=events.append).variant == "cuda"
    (warning,) = [e.message for e in events if e.kind == "warning"]
    assert warning == "vllm (cuda) is not for this machine: no such device is here"
    assert any("580" in e.message for e in events if e.kind == "note")


@pytest.mark.parametrize("name", ["convert", "llama.cpp"])
def test_an_environment_without_variants_refuses_one(home: Settings, name: str) -> None:
    with pytest.raises(AdvisorError) as e:
        environments.env_build(name, variant="cuda", settings=home)
    assert e.value.code == "bad-option"


def test_offers_name_all_with_the_variant_of_this_machine(home: Settings, machine: list[Machine]) -> None:
    machine[0] = load_machine(MACHINES / "gb10-unified").machine
    environments.env_build("vllm", settings=home)
    offers = {o.name: o for o in environments.env_offers(settings=home)}
    assert (offers["vllm"].variant, offers["vllm"].built, offers["vllm"].variants) == (
        "cuda",
        True,
        ("cpu", "cuda", "rocm"),
    )
    assert offers["vllm"].needs
    assert (offers["convert"].variant, offers["convert"].built, offers["convert"].needs) == (None, False, ())


def test_doctor_looks_at_every_variant_that_is_there(home: Settings) -> None:
    environments.env_build("transformers", settings=home)
    environments.env_build("transformers", variant="cuda", settings=home)
    checks = environments.env_doctor(settings=home)
    assert [c.name for c in checks] == ["environment transformers (cpu)", "environment transformers (cuda)"]
    assert {c.message for c in checks} == {"it works: torch sees cpu, cuda:0 A card; 3 s"}
    (absent,) = environments.env_doctor("gptqmodel", settings=home)
    assert not absent.ok
    assert absent.hint is not None
    assert absent.hint.endswith("advisor env build gptqmodel --variant cpu")
