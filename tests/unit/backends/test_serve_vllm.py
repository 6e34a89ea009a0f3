"""The runner that starts vLLM: what it refuses at once, and the guard that asks for the key."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.execute.proc import RUNNERS
from tests.unit.backends.support import runner

SERVE = runner("serve_vllm")
GUARD = runner("guard")


@pytest.fixture(autouse=True)
def no_keys_afterwards() -> Any:
    yield
    GUARD.set_keys([])


def start(*argv: str) -> subprocess.CompletedProcess[str]:
    script = str(RUNNERS / "serve_vllm.py")
    return subprocess.run([sys.executable, "-I", script, *argv], capture_output=True, text=True, timeout=60)


def options(model: Path, port: int = 1) -> tuple[str, ...]:
    return ("--", "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "64")


def test_a_folder_that_cannot_be_served_is_named_before_vllm_is_imported(tmp_path: Path) -> None:
    done = start(*options(tmp_path / "gone"))
    assert (done.returncode, done.stderr) == (1, f"error: there is no folder {tmp_path / 'gone'}\n")
    done = start(*options(tmp_path))
    assert done.returncode == 1 and "config.json" in done.stderr
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    done = start(*options(tmp_path))
    assert done.returncode == 1 and "error: there is no file of weights (*.safetensors)" in done.stderr


def test_a_taken_port_has_an_exit_status_of_its_own(tmp_path: Path) -> None:
    import socket

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = start(*options(tmp_path, taken.getsockname()[1]))
    assert done.returncode == 98 and "cannot be bound" in done.stderr


def test_an_unreadable_key_stops_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = start("--api-key-file", str(tmp_path / "none"), *options(tmp_path))
    assert done.returncode == 1 and done.stderr.startswith("error: the key file")


def asked(path: str, *headers: tuple[bytes, bytes], kind: str = "http") -> list[Any]:
    """What comes of a request through the guard: the inner application's mark, or the guard's own messages."""
    out: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        out.append("passed")

    async def send(message: Any) -> None:
        out.append(message)

    scope = {"type": kind, "path": path, "headers": list(headers)}
    asyncio.run(GUARD.Guard(inner)(scope, None, send))
    return out


def bearer(key: str, scheme: str = "Bearer") -> tuple[bytes, bytes]:
    return (b"authorization", f"{scheme} {key}".encode())


def test_every_path_but_health_asks_for_the_key() -> None:
    GUARD.set_keys(["alpha", "beta"])
    assert asked("/health") == ["passed"]
    for path in ("/v1/chat/completions", "/invocations", "/metrics", "/v1/models", "/", "/healthz", "/health/.."):
        refused = asked(path)
        assert refused[0]["status"] == 401 and b"key" in refused[1]["body"]
        assert asked(path, bearer("alpha")) == ["passed"]
        assert asked(path, bearer("beta", "bearer")) == ["passed"]
        assert asked(path, bearer("gamma"))[0]["status"] == 401
    assert asked("/v1", kind="lifespan") == ["passed"]
    assert asked("/v1/realtime", kind="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_two_headers_are_none() -> None:
    GUARD.set_keys(["alpha"])
    assert not GUARD.allowed("/v1", [bearer("alpha"), bearer("alpha")])


@given(st.binary(max_size=60))
def test_without_keys_nothing_passes(value: bytes) -> None:
    GUARD.set_keys([])
    assert not GUARD.allowed("/v1/models", [(b"authorization", value)])


@given(st.text(max_size=40), st.text(min_size=1, max_size=40).filter(lambda k: k == k.strip()))
def test_only_the_key_itself_passes(given_: str, key: str) -> None:
    GUARD.set_keys([key])
    let = GUARD.allowed("/v1/models", [(b"authorization", f"Bearer {given_}".encode())])
    assert let == (given_.encode().strip() == key.encode())
    GUARD.set_keys([])
