"""``up`` from end to end over scripted runners: ports, hosts, keys, closed terminals, interrupts, hostile names."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import scripted
from tests.unit.deploy.rig import Rig, wait_for

CANARY = "canary-7c1e55d04b9a"


class Serving:
    """A home, a model that is served as it is, and a fake server."""

    def __init__(self, root: Path) -> None:
        self.home = Path(os.environ["ADVISOR_HOME"])
        self.folder = scripted.runners(root / "runners")
        self.model = scripted.model(root / "small-Q8_0.gguf", "q8_0")
        self.rig = Rig(self.home / "state" / "deployments")

    def up(self, *words: str, **env: str) -> tuple[int, dict[str, Any]]:
        done = scripted.advisor(self.folder, "up", str(self.model), *words, "--json", **env)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    def states(self) -> list[str]:
        return [d.state for d in self.rig.deployments.list()]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    made = Serving(tmp_path)
    yield made
    made.rig.clean_up()


@contextlib.contextmanager
def listener(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.bind((host, 0))
        s.listen()
        yield s.getsockname()[1]


# --------------------------------------------------------------------------- ports, hosts


def test_a_named_port_that_is_taken_is_refused_before_anything_is_made(serving: Serving) -> None:
    with listener() as port:
        code, document = serving.up("--port", str(port))
    assert (code, document["error"]["code"]) == (8, "port-taken")
    assert document["error"]["data"]["port"] == port
    assert document["error"]["data"]["step"] == "preflight"
    assert document["error"]["hint"].startswith("advisor up --port ")
    assert scripted.started(serving.folder) == []


def test_the_usual_port_moves_on_when_it_is_taken(serving: Serving) -> None:
    with listener() as port:
        (serving.home / "config").mkdir(parents=True)
        code, document = serving.up(ADVISOR_PORT=str(port))
        assert (code, document["error"]["code"]) == (8, "port-taken")  # set by the user, so it is meant
    code, document = serving.up()
    first = document["data"]["deployment"]["port"]
    assert code == 0
    code, document = serving.up("--name", "second", "--context", "1024")
    assert code == 0, document
    assert document["data"]["deployment"]["port"] > first


def test_the_same_deployment_on_its_own_port_is_no_conflict(serving: Serving) -> None:
    port = str(serving.rig.port())
    _, document = serving.up("--port", port)
    pid = document["data"]["deployment"]["pid"]
    code, document = serving.up("--port", port)
    assert (code, document["data"]["deployment"]["pid"]) == (0, pid)


@pytest.mark.parametrize("port", ["1", "1023"])
def test_ports_of_the_administrator_are_refused_also_for_him(serving: Serving, port: str) -> None:
    code, document = serving.up("--port", port)
    assert (code, document["error"]["code"]) == (2, "bad-option")
    assert "1024" in document["error"]["message"]
    assert scripted.started(serving.folder) == []


def test_the_ipv6_loopback(serving: Serving) -> None:
    try:
        with listener("::1"):
            pass
    except OSError:
        code, document = serving.up("--host", "::1")
        assert (code, document["error"]["code"]) == (2, "bad-option")
        return
    code, document = serving.up("--host", "::1")
    assert code == 0, document
    deployment = document["data"]["deployment"]
    assert deployment["url"] == f"http://[::1]:{deployment['port']}"
    assert deployment["api_key_file"] is None


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a b", "-x"])
def test_a_host_that_is_not_here_is_refused_before_anything_is_made(serving: Serving, host: str) -> None:
    code, document = serving.up(f"--host={host}")
    assert code in (2, 7)
    assert document["error"]["code"] in ("bad-option", "exposed-without-key")
    assert scripted.started(serving.folder) == []


def test_beyond_loopback_there_is_always_a_key(serving: Serving) -> None:
    code, document = serving.up("--host", "0.0.0.0")
    assert code == 0, document
    deployment = document["data"]["deployment"]
    key = Path(deployment["api_key_file"])
    assert key.stat().st_mode & 0o777 == 0o600
    url = f"http://127.0.0.1:{deployment['port']}/v1/chat/completions"
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]}).encode()
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(urllib.request.Request(url, body))
    with e.value:
        assert e.value.code == 401
    headers = {"Authorization": f"Bearer {key.read_text().strip()}"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as reply:
        assert reply.status == 200


# ------------------------------------------------------------------ terminals, interrupts


def loading(serving: Serving) -> None:
    scripted.runners(serving.folder, serve=["--never-ready"])


def server_started(serving: Serving) -> bool:
    folder = serving.rig.folder("small")
    return (folder / "status.json").exists() and serving.rig.status("small").pid is not None


def test_a_terminal_that_closes_before_the_server_is_ready_stops_it(serving: Serving) -> None:
    loading(serving)
    command = scripted.command(serving.folder, "up", str(serving.model))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scripted.REPO)
        os.execv(command[0], command)
    wait_for(lambda: server_started(serving), "the server to start")
    os.close(terminal)  # the kernel sends SIGHUP to the session of the terminal
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert serving.rig.processes() == []
    assert serving.states() == ["stopped"]


def test_a_terminal_that_closes_afterwards_leaves_it_running(serving: Serving) -> None:
    command = scripted.command(serving.folder, "up", str(serving.model))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(scripted.REPO)
        os.execv(command[0], command)
    with contextlib.suppress(OSError):  # the end of a terminal's other side
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)
    assert serving.states() == ["ready"]
    assert serving.up()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_ready_stops_what_was_started(serving: Serving, number: signal.Signals) -> None:
    loading(serving)
    with subprocess.Popen(
        scripted.command(serving.folder, "up", str(serving.model), "--json"),
        cwd=scripted.REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        wait_for(lambda: server_started(serving), "the server to start")
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert b"Traceback" not in err
    assert serving.rig.processes() == []
    assert serving.states() == ["stopped"]
    scripted.runners(serving.folder)
    assert serving.up()[0] == 0


def test_an_interrupt_after_ready_leaves_it_running_and_says_so(serving: Serving) -> None:
    scripted.runners(serving.folder, serve=["--reply", "drip"])  # the first question takes long
    with subprocess.Popen(
        scripted.command(serving.folder, "up", str(serving.model), "--json"),
        cwd=scripted.REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        while b'"smoke"' not in (line := child.stderr.readline()):
            assert line
        for _ in range(2):  # the first asks, the second insists
            child.send_signal(signal.SIGINT)
            wait_for(lambda: b"Stopping" in child.stderr.readline() or True, "the answer to the signal")
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    error = json.loads(out)["error"]
    assert "keeps running" in error["message"]
    assert error["hint"].startswith("advisor ")
    assert serving.states() == ["ready"]


# ------------------------------------------------------------------------------ secrets


def test_secrets_are_found_nowhere(serving: Serving) -> None:
    """Not on a command line, not in a child's environment, not in a log, the journal, an answer or an error."""
    env = {
        "HF_TOKEN": CANARY,
        "OPENAI_API_KEY": CANARY,
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "PIP_INDEX_URL": f"https://user:{CANARY}@index.invalid/simple",
        "HTTPS_PROXY": f"http://user:{CANARY}@proxy.invalid:3128",
    }
    code, document = serving.up("--host", "0.0.0.0", **env)
    assert code == 0, document
    key_file = Path(document["data"]["deployment"]["api_key_file"])
    key = key_file.read_text().strip()
    told = []
    for words in (["status"], ["status", "--json"], ["logs", "small"], ["config", "show", "--json"], ["doctor"]):
        done = scripted.advisor(serving.folder, *words, **env)
        told += [done.stdout, done.stderr]
    scripted.runners(serving.folder, serve=["--exit", "3"])
    for words in (["restart", "small"], ["up", str(serving.model), "--json", "--name", "other"]):
        done = scripted.advisor(serving.folder, *words, **env)
        assert done.returncode == 1, done.stdout
        told += [done.stdout, done.stderr]
    scripted.runners(serving.folder)
    assert scripted.advisor(serving.folder, "restart", "small", **env).returncode == 0
    for pid in serving.rig.processes():
        told += [Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "environ")]
    files = [p for p in serving.home.rglob("*") if p.is_file() and p.name != "key" and p != key_file]
    told += [p.read_bytes().decode("utf-8", "replace") for p in files if p.suffix != ".gguf"]
    assert any("journal" in p.name for p in files)
    told.append(json.dumps(document))
    for secret in (CANARY, key):
        assert [t[max(0, t.find(secret) - 80) : t.find(secret)] for t in told if secret in t] == []


@pytest.mark.parametrize("words", [["up", "pypi:nothing-of-this-name"], ["recommend", "https://u:{0}@host/x"]])
def test_secrets_are_not_in_error_text(serving: Serving, words: list[str]) -> None:
    done = scripted.advisor(
        serving.folder,
        *(w.format(CANARY) for w in words),
        "--offline",
        HF_TOKEN=CANARY,
        PIP_INDEX_URL=f"https://{CANARY}@index.invalid/simple",
    )
    assert done.returncode in (4, 6)
    assert CANARY not in done.stdout + done.stderr


# ------------------------------------------------------------------------- hostile names

HOSTILE = ["'\"; touch pwned; # $(touch pwned) `touch pwned` | tee pwned", "--help", "x" * 240]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_names_from_end_to_end(serving: Serving, tmp_path: Path, name: str) -> None:
    source = tmp_path / "models"
    source.mkdir()
    scripted.llama_like(source / f"{name}.gguf", types="f16", name=f"{name} \x1b[31m\u202e", vocab=320, sparse=False)
    done = subprocess.run(
        [*scripted.command(serving.folder, "up", "--format", "q4_k_m", "--json", "--"), f"{name}.gguf"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(scripted.REPO)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    deployment = document["data"]["deployment"]
    assert set(deployment["name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_")
    assert not list(tmp_path.rglob("pwned"))
    log = scripted.advisor(serving.folder, "logs", deployment["name"])
    shown = scripted.advisor(serving.folder, "status", "-v")
    assert log.returncode == shown.returncode == 0
    assert "fake server starts" in log.stdout
    assert not any(c in log.stdout + shown.stdout + done.stdout for c in "\x1b\u202e")


@pytest.mark.parametrize("name", ["../up", "", "x" * 200, "$(id)", "\x1b[31m"])
def test_a_deployment_cannot_be_called_anything(serving: Serving, name: str) -> None:
    code, document = serving.up(f"--name={name}")
    assert (code, document["error"]["code"]) == (2, "bad-option")
    assert "\x1b" not in document["error"]["message"]
    assert scripted.started(serving.folder) == []
