"""The user's own Ollama: found where it answers, never waited for, named by the user alone."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import settings
from advisor.api import daemons
from advisor.backends.registry import quantizers, runtimes
from advisor.errors import AdvisorError
from advisor.facts.machine import RuntimeFound
from advisor.facts.plan import Plan
from advisor.planner.status import Status, judge
from advisor.settings import Settings as Own
from tests.support.fake_ollama import FakeOllama
from tests.unit.planner import planner_fakes as fakes
from tests.unit.planner.test_with_real_parts import plan

FOUND = RuntimeFound(runtime="ollama", provider="daemon", version="0.11.4")


def home(tmp_path: Path, **env: str) -> Own:
    return settings.load(env={"ADVISOR_HOME": str(tmp_path / "home"), **env}, project=tmp_path)


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_nobody_is_asked_where_nothing_speaks_of_ollama(
    tmp_path: Path, no_program: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(daemons, "_ask", lambda url, **_: asked.append(url) or {})
    assert daemons.found(home(tmp_path)) == () and asked == []


def test_a_daemon_that_is_named_is_found(tmp_path: Path, no_program: None) -> None:
    with FakeOllama() as fake:
        assert daemons.found(home(tmp_path, OLLAMA_HOST=fake.url)) == (FOUND,)
        assert [c.path for c in fake.calls] == ["/api/version"]
        fake.version = 7
        assert daemons.found(home(tmp_path, OLLAMA_HOST=fake.url)) == ()
    assert daemons.found(home(tmp_path, OLLAMA_HOST=fake.url)) == ()


def test_the_program_on_path_is_reason_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ollama"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr(daemons, "_ask", lambda url, **_: asked.append(url) or {"version": "0.9.0\x1b[31m"})
    (one,) = daemons.found(home(tmp_path))
    assert (one.path, asked) == (str(program), ["http://127.0.0.1:11434/api/version"])
    assert "\x1b" not in str(one.version)


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path, no_program: None) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        assert daemons.found(home(tmp_path, OLLAMA_HOST=f"127.0.0.1:{s.getsockname()[1]}")) == ()


def test_a_project_folder_does_not_send_prompts_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "advisor.yaml").write_text("ollama_host: http://192.0.2.7:11434\n")
    with pytest.raises(AdvisorError) as e:
        daemons.address(home(tmp_path))
    assert e.value.code == "bad-option"
    assert daemons.found(home(tmp_path)) == ()
    assert daemons.address(home(tmp_path, OLLAMA_HOST="192.0.2.8")) == "http://192.0.2.8:11434"
    (tmp_path / "advisor.yaml").write_text('ollama_host: "127.0.0.1:5"\n')
    assert daemons.address(home(tmp_path)) == "http://127.0.0.1:5"


def judged(machine: Any, runtime: str = "ollama") -> Status:
    from advisor.planner.candidate import Candidate
    from advisor.planner.targets import Target

    device = machine.devices[:1]
    target = Target("gpu", device[0].vendor, device, (device[0].id,)) if device else Target("cpu", "cpu", (), ("host",))
    candidate = Candidate("gguf", "q8_0", runtime, target, None, "as-is")
    return judge(
        candidate,
        machine,
        runtimes={n: r.capabilities() for n, r in runtimes().items()},
        quantizers={n: q.capabilities() for n, q in quantizers().items()},
    )


def with_daemon(machine: Any) -> Any:
    return msgspec.structs.replace(machine, runtimes=(*machine.runtimes, FOUND))


def test_a_plan_is_ready_where_the_daemon_answers() -> None:
    assert judged(fakes.cpu_only()) == Status("needs", ("Ollama installed and running",))
    assert judged(with_daemon(fakes.cpu_only())) == Status("ready", ())
    card = fakes.rtx_4090()
    silent = msgspec.structs.replace(card, devices=(msgspec.structs.replace(card.devices[0], driver=None),))
    told = msgspec.structs.replace(card, devices=(msgspec.structs.replace(card.devices[0], driver="580.65"),))
    assert judged(with_daemon(silent)).needs == ("an NVIDIA driver",)
    assert judged(with_daemon(told)).status == "ready"


def test_ollama_is_taken_when_asked_for_and_not_before() -> None:
    machine = with_daemon(fakes.cpu_only())
    asked = plan("8B", machine, runtime="ollama").plans[0]
    assert (asked.runtime, asked.status, asked.executable_here) == ("ollama", "ready", True)
    assert plan("8B", machine).plans[0].runtime == "llama.cpp"
    assert plan("8B", fakes.cpu_only(), runtime="ollama").plans[0].status == "needs"


def changed(**fields: Any) -> Plan:
    made = plan("8B", fakes.cpu_only(), runtime="ollama").plans[0]
    return msgspec.structs.replace(made, settings=msgspec.structs.replace(made.settings, **fields))


def test_what_only_the_daemons_own_environment_decides_is_said() -> None:
    assert daemons.notes(changed(parallel=1, kv_type="f16")) == ()
    (slots,) = daemons.notes(changed(parallel=4, kv_type="f16"))
    assert "OLLAMA_NUM_PARALLEL=4" in slots and "KV_CACHE" not in slots
    (cache,) = daemons.notes(changed(parallel=1, kv_type="q8_0"))
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in cache and "PARALLEL" not in cache


@pytest.mark.parametrize(
    ("said", "note"),
    [
        ({"size": 3 << 20, "size_vram": 0}, "The memory is the daemon's: 3 MiB by /api/ps."),
        (
            {"size": 3 << 20, "size_vram": 2 << 20},
            "The memory is the daemon's: 3 MiB by /api/ps, 2 MiB of them on devices.",
        ),
        ({}, "The memory is the daemon's, which does not say how much it takes."),
    ],
)
def test_the_note_of_a_receipt(monkeypatch: pytest.MonkeyPatch, said: dict[str, int], note: str) -> None:
    monkeypatch.setattr(daemons, "_ask", lambda url, **_: said)
    assert daemons.memory_note("http://127.0.0.1:1") == (note,)
