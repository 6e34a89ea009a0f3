"""The process in front of an Ollama daemon: what it asks of the daemon, what it lets through, and how it ends."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.backends import ollama
from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.deploy import client
from advisor.deploy.measure import measure
from advisor.errors import AdvisorError
from advisor.execute.proc import RUNNERS
from advisor.facts.plan import Settings
from tests.support.fake_ollama import ANSWER, OTHERS, FakeOllama
from tests.unit.backends.support import runner
from tests.unit.deploy.rig import wait_for

DAEMON = runner("ollama_daemon")
SETTINGS = Settings(context=8192, parallel=2, threads=3, batch=256)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Process:
    """One run of the script."""

    def __init__(self, url: str, file: Path, *, key_file: Path | None = None, alias: str = "small-Q8_0") -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}/v1"
        command = runtime("ollama").serve(
            ServeRequest(
                settings=SETTINGS,
                model_path=str(file),
                model_name=alias,
                host="127.0.0.1",
                port=self.port,
                python=sys.executable,
                runner=str(RUNNERS / "serve_ollama.py"),
                daemon=url,
                api_key_file=str(key_file) if key_file else None,
            )
        )
        self.log = file.parent / f"log-{self.port}"
        with self.log.open("wb") as out:
            self.popen = subprocess.Popen(command.argv, env={**command.env}, stderr=out, stdout=out)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        return self.send("GET", path, None, **headers)

    def send(self, method: str, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            raw = json.dumps(body).encode() if body is not None else None
            connection.request(method, path, raw, {"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read() or b"{}")
        finally:
            connection.close()

    def health(self) -> tuple[int, dict[str, Any]]:
        try:
            return self.get("/health")
        except OSError:
            return 0, {}

    def ready(self) -> Process:
        def seen() -> bool:
            assert self.popen.poll() is None, self.text()
            status, body = self.health()
            return runtime("ollama").ready(status, json.dumps(body).encode())

        wait_for(seen, "readiness")
        return self

    def text(self) -> str:
        return self.log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(20)


Run = Callable[..., Process]


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama() as daemon:
        yield daemon


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small-Q8_0.gguf"
    path.write_bytes(b"GGUF" + os.urandom(3 << 20))
    return path


@pytest.fixture
def run(fake: FakeOllama, file: Path) -> Iterator[Run]:
    begun: list[Process] = []

    def start(url: str | None = None, **more: Any) -> Process:
        begun.append(Process(url or fake.url, file, **more))
        return begun[-1]

    yield start
    for one in begun:
        one.popen.kill()
        one.popen.wait(20)


def test_the_daemon_gets_the_file_and_the_requests_that_are_planned(fake: FakeOllama, file: Path, run: Run) -> None:
    server = run().ready()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    name = fake.own()[0]
    head, blob, create, load = ollama.calls(name, file.name, sha256, SETTINGS)
    told = [c for c in fake.calls if c.path not in ("/api/ps", "/api/version")]
    assert [(c.method, c.path) for c in told] == [(c.method, c.path) for c in (head, blob, create, load)]
    assert [c.body for c in told] == [None, file.stat().st_size, create.body, load.body]
    assert name.startswith("advisor-small-q8_0:")
    assert fake.models[name]["parameters"] == {
        "num_ctx": 4096,
        "num_gpu": 0,
        "num_batch": 256,
        "num_thread": 3,
        "use_mmap": True,
    }
    size = file.stat().st_size + (1 << 20)
    assert server.health() == (
        200,
        {"status": "ok", "model": name, "loaded": True, "size": size, "size_vram": 0},
    )
    assert fake.running[name]["keep_alive"] == -1


def test_the_file_is_sent_once(fake: FakeOllama, run: Run) -> None:
    assert run().ready().end() == 0
    assert run().ready().end() == 0
    assert [c.method for c in fake.calls if c.path.startswith("/api/blobs/")] == ["HEAD", "POST", "HEAD"]
    assert len(fake.own()) == 1


def test_chats_and_completions_are_passed_on_under_the_names_of_each_side(fake: FakeOllama, run: Run) -> None:
    server = run().ready()
    answer = client.chat(server.base, "small-Q8_0", [{"role": "user", "content": "?"}])
    assert (answer.text, answer.prompt_tokens) == (ANSWER, 40)
    assert client.completion(server.base, "small-Q8_0", "The capital is").text == ANSWER
    _, whole = server.send("POST", "/v1/completions", {"prompt": "x"})
    assert whole["model"] == "small-Q8_0"
    parts = client.streamed(server.base, "small-Q8_0", "?", use_chat=True, max_tokens=9, api_key=None, timeout_s=20)
    assert "".join(p.text for p in parts).split() == ANSWER.split()
    assert {p.event["model"] for p in parts} == {"small-Q8_0"}
    assert measure(server.base, "small-Q8_0", prompt_tokens=32, max_tokens=8).completion_tokens == 7
    asked = fake.paths("/v1/chat/completions") + fake.paths("/v1/completions")
    assert {b["model"] for b in asked} == set(fake.own())
    assert ANSWER not in server.text()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", {"model": OTHERS, "messages": []}, 404),
        ("POST", "/v1/embeddings", {"input": "x"}, 404),
        ("POST", "/api/generate", {"model": OTHERS, "keep_alive": 0}, 404),
        ("POST", "/v1/completions", ["no object"], 400),
        ("GET", "/api/tags", None, 404),
        ("GET", "/v1/../api/tags", None, 404),
    ],
)
def test_nothing_else_of_the_daemon_is_reached(
    fake: FakeOllama, run: Run, method: str, path: str, body: object, status: int
) -> None:
    server = run().ready()
    before = len([c for c in fake.calls if c.path != "/api/ps"])
    assert server.send(method, path, body)[0] == status
    assert len([c for c in fake.calls if c.path != "/api/ps"]) == before


def test_only_the_served_model_is_listed_and_wrong_hosts_and_long_bodies_are_refused(run: Run) -> None:
    server = run().ready()
    assert [m["id"] for m in server.get("/v1/models")[1]["data"]] == ["small-Q8_0"]
    assert server.get("/v1/models", Host="evil.example")[0] == 403
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(
        "POST", "/v1/completions", headers={"Content-Type": "application/json", "Content-Length": str(1 << 40)}
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_the_key_is_asked_for_everywhere_but_at_health_and_not_told_to_the_daemon(
    fake: FakeOllama, run: Run, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sesame-4711\n")
    server = run(key_file=key).ready()
    chat = {"messages": [{"role": "user", "content": "?"}]}
    assert server.send("POST", "/v1/chat/completions", chat)[0] == 401
    assert server.get("/v1/models")[0] == 401
    assert server.send("POST", "/v1/chat/completions", chat, Authorization="Bearer sesame-4711")[0] == 200
    assert "sesame" not in server.text() + json.dumps(fake.calls)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_unloads_and_leaves_all_else(fake: FakeOllama, run: Run, number: int) -> None:
    server = run().ready()
    name = fake.own()[0]
    assert server.end(number) == 0
    assert list(fake.running) == [OTHERS]
    assert set(fake.models) == {OTHERS, name}
    assert f"{name} unloaded" in server.text()
    assert {c.method for c in fake.calls} <= {"HEAD", "GET", "POST"}
    touched = {c.body["model"] for c in fake.calls if isinstance(c.body, dict)}
    assert touched == {name}


def test_told_to_stop_while_it_loads(fake: FakeOllama, run: Run) -> None:
    fake.load_s = 60.0
    server = run()
    wait_for(lambda: fake.paths("/api/generate"), "the load")
    assert server.health() == (503, {"status": "loading the model"})
    assert server.send("POST", "/v1/completions", {"prompt": "x"})[0] == 503
    assert server.end() == 0
    wait_for(lambda: fake.gone, "the daemon to notice")
    assert list(fake.running) == [OTHERS]
    assert "error:" not in server.text()


def test_a_signal_during_each_of_many_starts_ends_the_process(fake: FakeOllama, run: Run) -> None:
    for _ in range(4):
        server = run()
        wait_for(lambda s=server: s.health()[0] in (200, 503), "the socket")
        assert server.end() == 0
    assert list(fake.running) == [OTHERS]


def failed(server: Process, code: str) -> str:
    """It ended by itself, and its log is diagnosed as ``code``."""
    assert server.popen.wait(20) == 1
    found = runtime("ollama").diagnose(server.text())
    assert found is not None and found.code == code, server.text()
    return server.text()


def test_no_daemon(run: Run) -> None:
    assert "error: [daemon-not-reachable]" in failed(run(f"http://127.0.0.1:{free_port()}"), "daemon-not-reachable")


def test_another_program_at_its_address(fake: FakeOllama, run: Run) -> None:
    fake.version = None
    failed(run(), "not-ollama")


@pytest.mark.parametrize("version", ["0.5.4", "0.1.32-rc1"])
def test_an_old_daemon_gets_no_file(fake: FakeOllama, run: Run, version: str) -> None:
    fake.version = version
    assert version in failed(run(), "daemon-too-old")
    assert not fake.blobs


def test_a_build_from_source_has_no_version_to_speak_of(fake: FakeOllama, run: Run) -> None:
    fake.version = "0.0.0"
    run().ready()


def test_create_fails(fake: FakeOllama, run: Run) -> None:
    fake.create_error = '\x1b[31munsupported architecture "Zeta"\nreally'
    assert "\x1b" not in failed(run(), "unknown-architecture")


def test_a_digest_that_does_not_fit(fake: FakeOllama, run: Run) -> None:
    fake.corrupts = True
    failed(run(), "import-failed")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("model requires more system memory (9.1 GiB) than is available (3.0 GiB)", "out-of-memory"),
        ("oh", "load-failed"),
    ],
)
def test_the_load_fails(fake: FakeOllama, run: Run, said: str, code: str) -> None:
    fake.load_error = said
    failed(run(), code)
    assert list(fake.running) == [OTHERS]


def test_a_daemon_that_dies_and_comes_back_under_no_name(fake: FakeOllama, run: Run) -> None:
    server = run().ready()
    fake.close()
    status, body = server.health()
    assert (status, body["status"]) == (503, "daemon-not-reachable")
    with pytest.raises(AdvisorError) as e:
        client.chat(server.base, "small-Q8_0", [{"role": "user", "content": "?"}])
    assert "daemon_not_reachable" in e.value.message
    assert server.end() == 0
    assert "is not unloaded" in server.text()


def test_a_model_that_the_user_removed_or_put_out_of_memory(fake: FakeOllama, run: Run) -> None:
    server = run().ready()
    name = fake.own()[0]
    del fake.running[name]
    assert server.health()[1]["loaded"] is False
    assert client.chat(server.base, "small-Q8_0", [{"role": "user", "content": "?"}]).text == ANSWER
    assert server.health()[1]["loaded"] is True
    del fake.running[name], fake.models[name]
    assert server.health() == (503, {"status": "the daemon no longer has the model"})


def test_a_stream_that_the_daemon_breaks_off_is_an_error_to_the_client(fake: FakeOllama, run: Run) -> None:
    server = run().ready()
    fake.breaks_off = True
    with pytest.raises(AdvisorError, match="broke off its answer"):
        client.streamed(server.base, "small-Q8_0", "?", use_chat=True, max_tokens=9, api_key=None, timeout_s=20)
    fake.breaks_off = False
    assert client.chat(server.base, "small-Q8_0", [{"role": "user", "content": "?"}]).text == ANSWER


def test_a_client_that_goes_away_ends_the_work(fake: FakeOllama, run: Run) -> None:
    server = run().ready()
    fake.load_s = 60.0
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/v1/completions", b'{"prompt": "x"}', {"Content-Type": "application/json"})
    wait_for(lambda: fake.paths("/v1/completions"), "the request")
    connection.close()
    wait_for(lambda: fake.gone, "the daemon to be told")
    wait_for(lambda: "499 client_gone" in server.text(), "the note")


def test_many_at_once(fake: FakeOllama, run: Run) -> None:
    server = run().ready()
    fake.pause_s = 0.2
    answers: list[str] = []

    def ask() -> None:
        answers.append(client.chat(server.base, "small-Q8_0", [{"role": "user", "content": "?"}]).text)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [ANSWER] * 8


def test_a_taken_port_and_a_missing_file(run: Run, fake: FakeOllama, file: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        argv = [sys.executable, "-I", str(RUNNERS / "serve_ollama.py"), "--alias", "m", "--daemon", fake.url]
        port = ["--port", str(s.getsockname()[1])]
        done = subprocess.run([*argv, *port, "--model", str(file)], capture_output=True, text=True, timeout=20)
        assert done.returncode == 98 and "cannot be bound" in done.stderr
        gone = subprocess.run([*argv, *port, "--model", "/no/file"], capture_output=True, text=True, timeout=20)
        assert gone.returncode == 1 and "[file-not-found]" in gone.stderr
    assert fake.calls == []


@pytest.mark.parametrize("url", ["http://192.0.2.7:11434", "http://localhost.evil.example:80", "http://127.evil:80"])
def test_a_daemon_elsewhere_is_refused_unless_it_was_named(file: Path, url: str) -> None:
    argv = [sys.executable, "-I", str(RUNNERS / "serve_ollama.py"), "--alias", "m", "--port", str(free_port())]
    done = subprocess.run(
        [*argv, "--model", str(file), "--daemon", url], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1 and "[daemon-elsewhere]" in done.stderr
    assert not DAEMON.is_local(url)


def test_other_settings_are_another_model() -> None:
    names = {DAEMON.model_name("M!", "ab", p) for p in ({"num_ctx": 1}, {"num_ctx": 2}, {})}
    assert len(names) == 3
    assert all(ollama.check_name(n).startswith("advisor-m:") for n in names)
    assert DAEMON.model_name("../x\n", "ab", {}) == ollama.check_name(DAEMON.model_name("../x\n", "ab", {}))
