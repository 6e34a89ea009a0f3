"""Terminals that close, interrupts, two at once, ports lost to others, keys that must not be seen."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from advisor.deploy import client
from advisor.deploy.spec import LaunchSpec
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.facts.results import Deployment
from tests.unit.deploy.rig import Rig, alive, wait_for

REPO = Path(__file__).resolve().parents[2]
LAUNCHER = (
    "import sys; from pathlib import Path; from advisor.deploy.manager import Deployments;"
    "from advisor.deploy.spec import LaunchSpec; from advisor.facts.base import loads;"
    "spec = loads(LaunchSpec, Path(sys.argv[2]).read_bytes());"
    "print(Deployments(Path(sys.argv[1])).launch(spec).state, flush=True);"
    "sys.stdin.read()"
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "races and the like")
    yield made
    made.clean_up()


def launcher(rig: Rig, spec: LaunchSpec, tmp_path: Path) -> list[str]:
    """A command that launches in a process of its own, says the state, and then waits."""
    file = tmp_path / "spec to launch.json"
    file.write_bytes(spec.dumps())
    return [sys.executable, "-c", LAUNCHER, str(rig.root), str(file)]


def test_a_closed_terminal_does_not_end_the_server(rig: Rig, tmp_path: Path) -> None:
    command = launcher(rig, rig.spec(), tmp_path)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPO)
        os.execv(command[0], command)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)  # the kernel sends SIGHUP to the session of the terminal
    os.waitpid(pid, 0)
    assert rig.state() == "ready"
    status = rig.status()
    for hang_up in (signal.SIGHUP, signal.SIGINT):
        os.kill(status.shim_pid, hang_up)
    assert rig.state() == "ready"
    assert os.getsid(status.shim_pid) == status.shim_pid
    assert os.getpgid(status.pid or 0) == status.pid
    assert os.readlink(f"/proc/{status.shim_pid}/fd/0") == os.devnull


def test_ctrl_c_before_ready_stops_what_was_started(rig: Rig, tmp_path: Path) -> None:
    command = launcher(rig, rig.spec("--never-ready"), tmp_path)
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        wait_for(lambda: (rig.folder() / "status.json").exists() and rig.status().pid, "the server to start")
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert rig.processes() == []
    assert rig.state() == "stopped"


def test_ctrl_c_after_ready_leaves_it_running(rig: Rig, tmp_path: Path) -> None:
    command = launcher(rig, rig.spec(), tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPO, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert rig.state() == "ready"


def test_a_killed_launcher_leaves_a_deployment_that_the_next_one_takes_over(rig: Rig, tmp_path: Path) -> None:
    spec = rig.spec("--ready-after", "0.8")
    with subprocess.Popen(launcher(rig, spec, tmp_path), cwd=REPO, stdin=subprocess.PIPE) as child:
        wait_for(lambda: (rig.folder() / "status.json").exists() and rig.status().pid, "the server to start")
        child.kill()
    pid = rig.status().pid
    assert rig.deployments.get("one").state in ("loading", "ready")
    assert rig.deployments.launch(spec).pid == pid


def test_a_cancel_before_ready_stops_what_was_started(rig: Rig) -> None:
    cancel = Cancel()

    def on_event(event: Event) -> None:
        if event.kind == "progress" and event.message == "loading":
            cancel.set()

    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec("--never-ready"), reporter=on_event, cancel=cancel)
    assert caught.value.code == "interrupted"
    assert rig.processes() == []


def test_a_reporter_that_raises_does_not_matter(rig: Rig) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("no progress bar")

    assert rig.deployments.launch(rig.spec(), reporter=broken).state == "ready"


def test_two_launches_of_one_name_start_one_server(rig: Rig) -> None:
    spec = rig.spec("--ready-after", "0.3")
    found: list[Deployment] = []
    threads = [threading.Thread(target=lambda: found.append(rig.deployments.launch(spec))) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {d.state for d in found} == {"ready"}
    assert len({d.pid for d in found}) == 1
    assert len(rig.processes()) == 3  # supervisor, log keeper, server


def test_the_same_plan_again_is_reused_and_another_one_is_in_the_way(rig: Rig) -> None:
    first = rig.deployments.launch(rig.spec())
    events: list[Event] = []
    assert rig.deployments.launch(rig.spec(), reporter=events.append).pid == first.pid
    assert [e.kind for e in events] == ["step-reused"]
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(plan_id="p-2"))
    assert (caught.value.code, caught.value.exit_code, caught.value.hint) == ("name-taken", 8, "advisor down one")
    rig.deployments.stop("one")
    assert rig.deployments.launch(rig.spec(plan_id="p-2")).plan_id == "p-2"


def test_a_name_that_is_taken_is_found_before_any_work(rig: Rig) -> None:
    rig.deployments.check_name("one", "p-1")
    rig.deployments.launch(rig.spec())
    rig.deployments.check_name("one", "p-1")
    rig.deployments.check_name("two", "p-2")
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.check_name("one", "p-2")
    assert (caught.value.code, caught.value.hint) == ("name-taken", "advisor down one")
    assert "--name one-2" in caught.value.context[0]
    rig.deployments.stop("one")
    rig.deployments.check_name("one", "p-2")


def test_a_port_that_another_program_has_at_a_restart_is_told_with_a_command_that_moves(rig: Rig) -> None:
    spec = rig.spec()
    rig.deployments.launch(spec)
    rig.deployments.stop("one")
    with socket.create_server(("127.0.0.1", spec.port)), pytest.raises(AdvisorError) as caught:
        rig.deployments.restart("one")
    assert (caught.value.code, caught.value.data["port"]) == ("port-taken", spec.port)
    assert str(caught.value.hint).startswith("advisor up p-1 --name one --port ")
    assert rig.state() == "stopped"
    assert rig.deployments.restart("one").state == "ready"


def test_the_same_plan_by_another_provider_is_in_the_way_where_one_is_asked_for(rig: Rig) -> None:
    first = rig.deployments.launch(rig.spec(provider="wheel"))
    assert first.provider == "wheel"
    for provider in (None, "wheel"):
        assert rig.deployments.launch(rig.spec(provider="path"), provider=provider).pid == first.pid
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(provider="path"), provider="path")
    assert (caught.value.code, caught.value.exit_code, caught.value.hint) == ("name-taken", 8, "advisor down one")
    assert "with the provider wheel, not with path" in caught.value.message
    assert rig.deployments.get("one").pid == first.pid, "it serves on"
    rig.deployments.stop("one")
    assert rig.deployments.launch(rig.spec(provider="path"), provider="path").provider == "path"
    assert rig.deployments.restart("one").provider == "path"
    # One that an older version launched did not say what serves it.
    rig.deployments.stop("one")
    rig.deployments.launch(rig.spec())
    with pytest.raises(AdvisorError, match="not recorded"):
        rig.deployments.launch(rig.spec(provider="wheel"), provider="wheel")


def test_down_while_another_advisor_starts_it(rig: Rig) -> None:
    spec = rig.spec("--never-ready")
    errors: list[str] = []

    def up() -> None:
        try:
            rig.deployments.launch(spec)
        except AdvisorError as e:
            errors.append(e.code)

    thread = threading.Thread(target=up)
    thread.start()
    wait_for(lambda: (rig.folder() / "status.json").exists() and rig.status().pid, "the server to start")
    assert rig.deployments.stop("one").state == "stopped"
    thread.join()
    assert errors == ["interrupted"]
    assert rig.processes() == []
    assert rig.deployments.stop("one").state == "stopped"


def test_an_unhealthy_deployment_is_started_anew(rig: Rig) -> None:
    first = rig.deployments.launch(rig.spec(health_timeout_s=0.2, stop_grace_s=0.2))
    os.kill(first.pid or 0, signal.SIGSTOP)
    sick = rig.deployments.get("one")
    assert sick.state == "unhealthy"
    assert "no answer within" in str(sick.reason)
    second = rig.deployments.launch(rig.spec())
    assert (second.state, second.pid != first.pid) == ("ready", True)
    assert not alive(first.pid or 0)


def test_restart_is_a_new_process_of_the_same_plan(rig: Rig) -> None:
    first = rig.deployments.launch(rig.spec())
    second = rig.deployments.restart("one")
    assert (second.state, second.plan_id, second.port) == ("ready", first.plan_id, first.port)
    assert second.pid != first.pid
    assert not alive(first.pid or 0)
    rig.deployments.stop("one")
    assert rig.deployments.restart("one").state == "ready"


# -- ports


def test_a_port_that_is_taken_is_never_mistaken_for_ready(rig: Rig) -> None:
    """A stranger that answers 200 on our port must not pass for our server."""
    stranger = rig.deployments.launch(rig.spec(name="stranger"))
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec("--never-listen", port=stranger.port, port_explicit=True))
    assert (caught.value.code, caught.value.exit_code) == ("port-taken", 8)
    assert "--port" in str(caught.value.hint)


def lose_port(spec: LaunchSpec, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Bind the port in the moment between the last check and the server's own bind."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    real = __import__("advisor.deploy.spawn", fromlist=["start_shim"]).start_shim

    def start(*args: object, **kwargs: object) -> None:
        if listener.fileno() >= 0 and listener.getsockname()[1] == 0:
            listener.bind(("127.0.0.1", spec.port))
            listener.listen()
        real(*args, **kwargs)

    monkeypatch.setattr("advisor.deploy.spawn.start_shim", start)
    return listener


def test_a_port_lost_in_between_is_replaced_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rig.spec(health_timeout_s=0.3)
    with lose_port(spec, monkeypatch):
        found = rig.deployments.launch(spec, at_port=lambda port: rig.spec(port=port))
    assert found.state == "ready"
    assert found.port != spec.port
    assert rig.deployments.get("one").port == found.port


def test_a_named_port_lost_in_between_is_an_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = rig.spec(port_explicit=True, health_timeout_s=0.3)
    with lose_port(spec, monkeypatch), pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(spec, at_port=lambda port: rig.spec(port=port))
    assert caught.value.code == "server-failed"
    assert "couldn't bind" in "".join(caught.value.context)


def test_a_stranger_on_our_port_is_not_our_health(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    other = rig.deployments.launch(rig.spec(name="stranger"))
    monkeypatch.setattr("advisor.deploy.ports.is_taken", lambda *_: False)
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec("--never-listen", port=other.port, ready_timeout_s=0.4))
    assert caught.value.code == "server-timeout"


def test_ipv6_loopback(rig: Rig) -> None:
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        with pytest.raises(AdvisorError, match="not an address of this machine"):
            rig.deployments.launch(rig.spec(host="::1"))
        return
    found = rig.deployments.launch(rig.spec(host="::1"))
    assert (found.state, found.url) == ("ready", f"http://[::1]:{found.port}")


# -- keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_no_server_for_others_without_a_key(rig: Rig, host: str) -> None:
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(host=host))
    assert (caught.value.code, caught.value.exit_code) == ("exposed-without-key", 7)
    assert rig.processes() == []


def test_an_empty_key_is_no_key(rig: Rig, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(host="0.0.0.0", api_key_file=str(key)))
    assert caught.value.code == "exposed-without-key"


def test_the_key_is_seen_nowhere(rig: Rig) -> None:
    file = rig.deployments.key_file("one")
    canary = file.read_text().strip()
    assert len(canary) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert rig.deployments.key_file("one").read_text().strip() == canary
    events: list[Event] = []
    spec = rig.spec("--key-file", str(file), host="0.0.0.0", api_key_file=str(file))
    found = rig.deployments.launch(spec, reporter=events.append)
    assert (found.state, found.url) == ("ready", f"http://127.0.0.1:{found.port}")
    assert client.smoke(found.openai_base_url, "fake", api_key=canary).text
    errors: list[str] = []
    for wrong in (None, "sk-wrong"):
        with pytest.raises(AdvisorError) as caught:
            client.chat(found.openai_base_url, "fake", [{"role": "user", "content": "hi"}], api_key=wrong)
        errors.append(str(caught.value))
    seen = [json.dumps(found.to_json()), *errors, *(e.dumps().decode() for e in events)]
    seen += rig.deployments.logs("one", 1000)
    seen += [p.read_text() for p in rig.root.rglob("*") if p.is_file() and p != file]
    for pid in rig.processes():
        for name in ("cmdline", "environ"):
            seen.append(Path(f"/proc/{pid}/{name}").read_text())
    assert not [text for text in seen if canary in text]
    assert all(p.stat().st_mode & 0o077 == 0 for p in rig.folder().rglob("*"))
    assert rig.folder().stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("place", ["argv", "env"])
def test_a_key_in_plain_view_is_refused(rig: Rig, place: str) -> None:
    file = rig.deployments.key_file("one")
    key = file.read_text().strip()
    shown = {"argv": ("server", f"--api-key={key}")} if place == "argv" else {"env": {"API_KEY": key}}
    with pytest.raises(AdvisorError) as caught:
        rig.deployments.launch(rig.spec(api_key_file=str(file), **shown))
    assert caught.value.code == "exposed-without-key"
    assert key not in caught.value.message


def test_a_key_file_that_others_can_read_is_refused(rig: Rig) -> None:
    file = rig.deployments.key_file("one")
    file.chmod(0o644)
    with pytest.raises(AdvisorError, match="read by others") as caught:
        rig.deployments.launch(rig.spec(api_key_file=str(file)))
    assert caught.value.code == "state-unreadable"


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(rig: Rig, mask: int) -> None:
    before = os.umask(mask)
    try:
        rig.deployments.launch(rig.spec())
        rig.deployments.key_file("one")
    finally:
        os.umask(before)
    assert rig.state() == "ready"
    assert all(p.stat().st_mode & 0o077 == 0 for p in rig.folder().rglob("*"))
