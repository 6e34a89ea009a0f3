"""Ollama as a runtime: addresses, its command line, readiness, logs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.backends import ollama
from advisor.backends.base import Runtime, ServeRequest
from advisor.backends.registry import runtime
from advisor.errors import AdvisorError
from advisor.execute.proc import RUNNERS
from advisor.facts.plan import Settings
from tests.unit.backends.support import runner

SERVE = runner("serve_ollama")
DAEMON = runner("ollama_daemon")

LOGS = {
    "out-of-memory": "error: [load-failed] the model is not loaded, HTTP 500: model requires more system memory "
    "(9.1 GiB) than is available (3.0 GiB)\n",
    "unknown-architecture": "error: [load-failed] the model is not loaded, HTTP 500: unknown model architecture: "
    "'zeta'\n",
    "disk-full": "error: [import-failed] the file is refused with HTTP 500: write /b: no space left on device\n",
    "daemon-too-old": "error: [daemon-too-old] Ollama 0.5.4 is older than 0.5.5\n",
    "daemon-not-reachable": "error: [daemon-not-reachable] no Ollama answers at http://127.0.0.1:11434: [Errno 111] "
    "Connection refused\n",
    "not-ollama": "error: [not-ollama] http://127.0.0.1:11434 answers /api/version with HTTP 404 and no version\n",
    "daemon-elsewhere": "error: [daemon-elsewhere] http://192.0.2.7:11434 is not on this machine\n",
    "import-failed": "error: [import-failed] no model is made of the file, HTTP 400: supplied file was not in GGUF\n",
    "load-failed": "error: [load-failed] the model is not loaded, HTTP 500: llama runner process has terminated\n",
    "file-missing": "error: [file-not-found] there is no file /m.gguf\n",
    "port-taken": "error: 127.0.0.1:8080 cannot be bound: [Errno 98] Address already in use\n",
}
HEALTHY = (
    "Ollama 0.11.4 at http://127.0.0.1:11434\nthe daemon has the file\n"
    'loaded: {"size": 4194308, "size_vram": 0} in 0.4 s\nserving m on 127.0.0.1:8080\n'
    "POST '/v1/chat/completions' 200 0+0 tokens 0.02 s\n"
)


def request(**more: Any) -> ServeRequest:
    fields: dict[str, Any] = {
        "settings": Settings(context=8192, parallel=2, threads=3, gpu_layers=7),
        "model_path": "/m/a.gguf",
        "model_name": "name",
        "host": "127.0.0.1",
        "port": 8123,
        "python": "/env/bin/python",
        "runner": "/x/serve_ollama.py",
    }
    return ServeRequest(**{**fields, **more})


def test_it_is_carried_out_by_a_script_that_is_there() -> None:
    backend = runtime("ollama")
    assert isinstance(backend, Runtime) and backend.runner is not None
    assert (RUNNERS / backend.runner).is_file()
    caps = backend.capabilities()
    assert caps.executable and all(ollama.INSTALLED in needs for needs in caps.needs.values())
    assert {n for needs in caps.needs.values() for n in needs} == {ollama.INSTALLED, *ollama.DRIVERS}


def test_the_command_is_one_that_the_runner_takes() -> None:
    command = runtime("ollama").serve(request(daemon="http://[::1]:9", api_key_file="/k/api-key"))
    assert command.argv[:5] == ("/env/bin/python", "-I", "-X", "utf8", "/x/serve_ollama.py")
    a = SERVE.arguments(list(command.argv[5:]))
    assert (a.model, a.alias, a.host, a.port) == ("/m/a.gguf", "name", "127.0.0.1", 8123)
    assert (a.daemon, a.elsewhere, a.api_key_file) == ("http://[::1]:9", False, "/k/api-key")
    assert json.loads(a.parameters) == ollama.parameters(request().settings)
    assert json.loads(a.parameters)["num_gpu"] == 7
    plain = SERVE.arguments(list(runtime("ollama").serve(request()).argv[5:]))
    assert (plain.daemon, plain.api_key_file) == (ollama.DEFAULT_URL, None)


def test_a_daemon_that_was_named_may_be_elsewhere() -> None:
    assert "--elsewhere" in runtime("ollama").serve(request(daemon="http://192.0.2.7:11434")).argv


def test_a_type_of_cache_that_ollama_lacks() -> None:
    with pytest.raises(AdvisorError) as e:
        runtime("ollama").serve(request(settings=Settings(context=4096, kv_type="iq4_nl")))
    assert e.value.code == "not-available"


@pytest.mark.parametrize(
    ("status", "body", "ready"),
    [
        (200, b'{"status":"ok","model":"advisor-m:1","loaded":true,"size":5}', True),
        (200, b'{"status":"ok","loaded":false}', True),
        (503, b'{"status":"ok"}', False),
        (200, b'{"status":"loading the model"}', False),
        (200, b"Ollama is running", False),
        (200, b'["ok"]', False),
        (200, b"[" * 100_000, False),
    ],
)
def test_readiness(status: int, body: bytes, ready: bool) -> None:
    assert runtime("ollama").ready(status, body) is ready


@pytest.mark.parametrize("code", sorted(LOGS))
def test_its_failures(code: str) -> None:
    found = runtime("ollama").diagnose(HEALTHY + LOGS[code])
    assert found is not None and found.code == code
    assert found.remedy and "{0}" not in found.message


def test_nothing_is_found_in_a_healthy_log() -> None:
    assert runtime("ollama").diagnose(HEALTHY) is None


@pytest.mark.parametrize(
    ("given_", "url", "local"),
    [
        ("", "http://127.0.0.1:11434", True),
        ("  ", "http://127.0.0.1:11434", True),
        ("0.0.0.0", "http://127.0.0.1:11434", True),
        ("0.0.0.0:9999", "http://127.0.0.1:9999", True),
        ("[::]:9999", "http://[::1]:9999", True),
        ("::1", "http://[::1]:11434", True),
        (":8000", "http://127.0.0.1:8000", True),
        ("localhost", "http://localhost:11434", True),
        ("127.3.2.1:5", "http://127.3.2.1:5", True),
        ("'http://gpu.example/'", "http://gpu.example:80", False),
        ("https://gpu.example", "https://gpu.example:443", False),
        ("192.0.2.7", "http://192.0.2.7:11434", False),
        ("localhost.example", "http://localhost.example:11434", False),
        ("127.0.0.1.example", "http://127.0.0.1.example:11434", False),
    ],
)
def test_addresses_as_ollama_reads_them(given_: str, url: str, local: bool) -> None:
    assert ollama.address(given_) == url
    assert ollama.is_local(url) is local
    assert DAEMON.is_local(url) is local


@pytest.mark.parametrize(
    "text", ["http://user:secret@host", "ftp://x", "host/path", "a b", "x:0", "x:99999", "unix:///run/x", "x\nHost: y"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AdvisorError) as e:
        ollama.address(text)
    assert e.value.code == "bad-option" and "secret" not in str(e.value)


@given(st.text(max_size=60))
def test_an_address_is_read_or_refused_and_read_again_the_same(text: str) -> None:
    try:
        url = ollama.address(text)
    except AdvisorError as e:
        assert e.code == "bad-option"
        return
    assert ollama.address(url) == url
    assert DAEMON.is_local(url) is ollama.is_local(url)
