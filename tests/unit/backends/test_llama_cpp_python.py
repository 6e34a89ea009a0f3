"""llama-cpp-python: its command, its readiness, its runner's settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from advisor.backends.base import ServeRequest
from advisor.backends.pins import pins
from advisor.backends.registry import runtime
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from advisor.facts.words import KV_TYPES
from tests.unit.backends.support import runner

BINDING = runtime("llama-cpp-python")
SERVE = runner("serve_llama_python")


def command(settings: Settings, key: str | None = None) -> list[str]:
    made = BINDING.serve(
        ServeRequest(
            settings=settings,
            model_path="/m.gguf",
            model_name="m",
            host="127.0.0.1",
            port=8080,
            python="/env/bin/python",
            runner="/runners/serve_llama_python.py",
            api_key_file=key,
        )
    )
    assert made.env["GGML_NO_BACKTRACE"] == "1"
    return list(made.argv)


def test_the_command_names_the_key_by_file() -> None:
    assert command(Settings(context=4096, threads=2, kv_type="q8_0"), "/key") == [
        "/env/bin/python", "-I", "-X", "utf8", "/runners/serve_llama_python.py",
        "--model", "/m.gguf", "--alias", "m", "--host", "127.0.0.1", "--port", "8080",
        "--context", "4096", "--batch", "2048", "--ubatch", "512", "--kv-type", "q8_0", "--load-mode", "mmap",
        "--threads", "2", "--api-key-file", "/key",
    ]  # fmt: skip


@pytest.mark.parametrize("kv", [k for k in KV_TYPES if not k.startswith("fp8")])
@pytest.mark.parametrize("mode", [None, "auto", "mmap", "none", "read", "mlock"])
def test_the_runner_reads_back_what_the_plan_says(kv: str, mode: str | None) -> None:
    line = command(Settings(context=4096, kv_type=kv, load_mode=mode, ubatch=4096))
    got: dict[str, Any] = SERVE.model(SERVE.arguments(line[5:]))
    assert (got["n_ctx"], got["n_batch"], got["n_ubatch"], got["model_alias"]) == (4096, 2048, 2048, "m")
    assert got["use_mmap"] == (mode in (None, "auto", "mmap"))
    assert got["use_mlock"] == (mode == "mlock")
    assert got["flash_attn"] is True
    assert got["type_k"] == got["type_v"] == SERVE.KV_TYPES[kv]
    assert got["logits_all"] is False
    assert "n_threads" not in got


def test_layers_on_a_device_are_refused() -> None:
    with pytest.raises(AdvisorError) as e:
        command(Settings(context=4096, gpu_layers=1))
    assert e.value.code == "not-available"


@pytest.mark.parametrize(
    ("status", "body", "ready"),
    [
        (200, {"object": "list", "data": [{"id": "m"}]}, True),
        (200, {"object": "list", "data": []}, False),
        (200, [], False),
        (401, {"data": [{"id": "m"}]}, False),
        (503, {}, False),
    ],
)
def test_it_is_ready_when_it_lists_its_model(status: int, body: object, ready: bool) -> None:
    assert BINDING.health_path == "/v1/models"
    assert BINDING.ready(status, json.dumps(body).encode()) is ready
    assert not BINDING.ready(200, b"<html>")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ERROR: Failed building wheel for llama-cpp-python", "build-failed"),
        ("ValueError: Failed to load model from file: /m.gguf", "load-failed"),
        ("llama_model_load: error loading model: unknown model architecture: 'x'", "unknown-architecture"),
        ("ValueError: Requested tokens (5000) exceed context window of 4096", "context-exceeded"),
        ("error: 127.0.0.1:80 cannot be bound: in use", "port-taken"),
    ],
)
def test_failures_have_names(line: str, code: str) -> None:
    found = BINDING.diagnose(line)
    assert found is not None
    assert found.code == code


def test_the_environment_compiles() -> None:
    p = pins("llama-cpp-python")
    assert p.compiles
    assert p.version_of("llama-cpp-python") == pins("llama.cpp-build").version_of("llama-cpp-python")
    assert not pins("llama.cpp").compiles
