"""The providers of llama.cpp as the facade sees them: found, tried, chosen, passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import settings
from advisor.api import environments, providing
from advisor.api.planning import recommend
from advisor.backends.llama.providers import Offer
from advisor.errors import AdvisorError
from advisor.events import Event
from advisor.execute.llama import find
from advisor.execute.steps import Steps
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from advisor.settings import Settings
from tests.support import fake_llama
from tests.unit.planner import planner_fakes as fakes

pytestmark = [pytest.mark.slow, pytest.mark.beside]  # programs are started and tried
WHEEL = Offer(provider="wheel", state="works", version="w")


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings.load(
        env={"ADVISOR_HOME": str(tmp_path / "home"), "ADVISOR_LLAMA_CPP_DIR": str(tmp_path / "programs")}
    )


@pytest.fixture(autouse=True)
def _wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providing, "_wheel", lambda _: [WHEEL])


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def machine_with(features: tuple[str, ...] = ("avx2", "fma")) -> Machine:
    machine = fakes.cpu_only()
    cpu = msgspec.structs.replace(machine.host.cpu, isa=features)
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, cpu=cpu))


def a_plan(**settings_: Any) -> Plan:
    report = recommend("8B", machine=machine_with(), settings=None, top=1)
    plan = report.plans[0]
    return msgspec.structs.replace(plan, settings=msgspec.structs.replace(plan.settings, **settings_))


def served(home: Settings, plan: Plan, wanted: str | None = None) -> tuple[providing.Serving, list[Event]]:
    told: list[Event] = []
    steps = Steps(reporter=told.append)
    return providing.serving(home, steps, plan, machine_with(), wanted), told


def test_what_is_on_path_is_found_without_being_run_as_a_server(tmp_path: Path, home: Settings) -> None:
    fake_llama.write(tmp_path / "programs")
    machine = providing.with_providers(machine_with(), home)
    path, wheel = machine.runtimes
    assert (path.provider, path.version, path.backends) == ("path", "0.5.0-dev 0c1e57098", ("cpu",))
    assert path.path == str(tmp_path / "programs" / "llama-server")
    assert wheel.provider == "wheel"
    providing.with_providers(machine_with(), home)
    assert calls(tmp_path) == ["--version", "--help", "--list-devices"]


def test_nothing_on_path_costs_nothing(tmp_path: Path, home: Settings) -> None:
    machine = providing.with_providers(machine_with(), home)
    assert [r.provider for r in machine.runtimes] == ["wheel"]
    assert not Path(home.paths.cache).exists()


def test_a_program_that_serves_is_taken_and_tried_once(tmp_path: Path, home: Settings) -> None:
    fake_llama.write(tmp_path / "programs")
    plan = a_plan()
    serving, _ = served(home, plan)
    assert serving.provider == "path"
    assert serving.binary is not None
    assert serving.binary.features == ("SSE3", "AVX", "AVX2", "FMA")
    tried = len(calls(tmp_path))
    assert served(home, plan)[0] == serving
    assert len(calls(tmp_path)) == tried
    assert "--fit off" in calls(tmp_path)[-1], "it is tried with the options that a plan uses"


@pytest.mark.parametrize(
    ("habit", "says"),
    [
        ("illegal-instruction", "another processor"),
        ("missing-library", "libcudart.so.12"),
        ("500", "does not complete"),
        ("empty", "without a completion"),
        ("bad-quantizer", "llama-quantize fails"),
        ("garbage-quantizer", "no smaller GGUF"),
    ],
)
def test_a_program_that_does_not_work_is_passed_over_and_named(
    tmp_path: Path, home: Settings, habit: str, says: str
) -> None:
    fake_llama.write(tmp_path / "programs", habit=habit)
    serving, told = served(home, a_plan())
    assert serving == providing.Serving("wheel", None)
    (warning,) = [e for e in told if e.kind == "warning"]
    assert "does not work" in warning.message
    with pytest.raises(AdvisorError) as e:
        providing.prove_path(home, again=True)
    assert e.value.code == "runtime-unfit"
    assert e.value.exit_code == 5
    assert says in " ".join((e.value.message, *e.value.context))
    tried = len(calls(tmp_path))
    assert served(home, a_plan())[0].provider == "wheel"
    assert len(calls(tmp_path)) == tried, "one that failed is not tried at every run"
    with pytest.raises(AdvisorError):
        served(home, a_plan(), "path")


def test_a_mended_program_is_tried_again(tmp_path: Path, home: Settings) -> None:
    fake_llama.write(tmp_path / "programs", habit="500")
    assert served(home, a_plan())[0].provider == "wheel"
    fake_llama.write(tmp_path / "programs")
    assert served(home, a_plan())[0].provider == "path"


def test_an_old_program_is_refused_with_the_holes(tmp_path: Path, home: Settings) -> None:
    fake_llama.write(tmp_path / "programs", version=fake_llama.OLD, help_of="53dd4beb")
    assert served(home, a_plan())[0].provider == "wheel"
    (info, *_) = environments.env_providers(settings=home)
    assert (info.provider, info.state) == ("path", "refused")
    assert "CVE-2026-33298" in str(info.why)
    for ask in (
        lambda: served(home, a_plan(), "path"),
        lambda: environments.env_build("llama.cpp", provider="path", settings=home),
    ):
        with pytest.raises(AdvisorError) as e:
            ask()
        assert e.value.code == "runtime-vulnerable"
        assert e.value.exit_code == 7
    assert not any("--model" in line for line in calls(tmp_path)), "it was given no model"


def test_a_build_without_the_processors_features_is_passed_over_after_its_trial(tmp_path: Path, home: Settings) -> None:
    fake_llama.write(tmp_path / "programs", features=("SSE3",))
    assert served(home, a_plan())[0].provider == "wheel"
    assert served(home, a_plan(), "path")[0].provider == "path"


def test_a_cache_that_cannot_be_written_is_no_trouble(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_llama.write(tmp_path / "programs")
    monkeypatch.setattr(find, "keep", lambda *_: None)
    assert served(home, a_plan())[0].provider == "path"


def test_env_build_tries_the_one_on_path(tmp_path: Path, home: Settings) -> None:
    fake_llama.write(tmp_path / "programs")
    info = environments.env_build("llama.cpp", provider="path", settings=home)
    assert (info.provider, info.complete, info.path) == ("path", True, str(tmp_path / "programs"))
    assert set(info.packages) == {"llama-server", "llama-quantize"}
    (first, *_) = environments.env_providers(settings=home)
    assert (first.provider, first.state) == ("path", "works")


def test_env_build_says_what_is_missing(tmp_path: Path, home: Settings) -> None:
    with pytest.raises(AdvisorError) as e:
        environments.env_build("llama.cpp", provider="path", settings=home)
    assert e.value.code == "tool-missing"
    fake_llama.write(tmp_path / "programs").chmod(0o777)
    with pytest.raises(AdvisorError, match="can be changed by anybody"):
        environments.env_build("llama.cpp", provider="path", settings=home)


@pytest.mark.parametrize(
    ("name", "provider", "backend", "code"),
    [
        ("convert", "path", None, "contradictory-options"),
        ("llama.cpp-build", "wheel", None, "contradictory-options"),
        ("llama.cpp", "wheel", "cuda", "contradictory-options"),
        ("llama.cpp", "biuld", None, "bad-option"),
        ("llama.cpp", "build", "abacus", "bad-option"),
    ],
)
def test_options_that_exclude_each_other(
    home: Settings, name: str, provider: str, backend: str | None, code: str
) -> None:
    with pytest.raises(AdvisorError) as e:
        environments.env_build(name, provider=provider, backend=backend, settings=home)
    assert e.value.code == code
    assert e.value.exit_code == 2


def test_only_plans_that_the_wanted_provider_can_serve_are_left(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_llama.write(tmp_path / "programs", devices=fake_llama.CUDA_DEVICE)
    machine = fakes.rtx_4090()
    on_gpu = msgspec.structs.replace(a_plan(gpu_layers=33), devices=("gpu0",))
    plans = [on_gpu, a_plan()]
    assert providing.servable(home, plans, machine, None) == plans
    assert providing.servable(home, plans, machine, "path") == plans
    assert providing.servable(home, plans, machine, "wheel") == plans[1:]
    with pytest.raises(AdvisorError) as e:
        providing.servable(home, plans[:1], machine, "wheel")
    assert e.value.code == "runtime-unfit"
    other = msgspec.structs.replace(plans[0], runtime="vllm")
    with pytest.raises(AdvisorError) as e:
        providing.servable(home, [other], machine, "path")
    assert e.value.code == "contradictory-options"


def needs(home: Settings, machine: Machine, runtime: str) -> list[tuple[str, ...]]:
    """What plans need beside the weights, which a bare size has not: on devices where there are some."""
    report = recommend("8B", machine=machine, runtime=runtime, settings=home, top=50)
    plans = [p for p in report.plans if p.settings.gpu_layers or not machine.devices]
    assert plans
    return [tuple(n for n in p.needs if "weights" not in n) for p in plans]


def test_a_device_build_on_path_makes_plans_for_the_device_ready(tmp_path: Path, home: Settings) -> None:
    assert all("llama-server on PATH" in n[0] for n in needs(home, fakes.rtx_4090(), "llama.cpp"))
    fake_llama.write(tmp_path / "programs", devices=fake_llama.CUDA_DEVICE)
    machine = providing.with_providers(fakes.rtx_4090(), home)
    assert set(needs(home, machine, "llama.cpp")) == {()}


def test_tools_to_compile_for_the_device_make_plans_for_it_ready(home: Settings) -> None:
    able = msgspec.structs.replace(fakes.rtx_4090(), buildable=("cpu", "cuda"))
    assert set(needs(home, able, "llama.cpp")) == {()}


def test_llama_cpp_python_needs_a_compiler(home: Settings) -> None:
    bare, able = machine_with(), msgspec.structs.replace(machine_with(), buildable=("cpu",))
    assert all("compiler" in n[0] for n in needs(home, bare, "llama-cpp-python"))
    assert set(needs(home, able, "llama-cpp-python")) == {()}
    # It is the same engine with more to set up: taken only where it is named.
    assert recommend("8B", machine=able, settings=home).plans[0].runtime == "llama.cpp"
