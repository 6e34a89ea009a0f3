"""The main job on a real model: `advisor up`, killed at every step and started again, then used and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS_TO_KILL = ("fetch", "restore", "convert", "quantize", "validate", "verify", "launch", "receipt")
KEPT = ("fetch", "restore", "convert", "quantize")


def run(home: Path, *args: str, check: bool = True) -> dict[str, Any]:
    """One command to its end; its document."""
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *args, "--json"],
        env={**os.environ, "ADVISOR_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    if check:
        assert done.returncode == 0, document.get("error")
    return document


def run_until(home: Path, step: str, *args: str) -> list[dict[str, Any]]:
    """Start ``up`` and kill it without mercy shortly after ``step`` has begun; the events until then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "advisor", "up", *args, "--json"],
        env={**os.environ, "ADVISOR_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    events = []
    for line in process.stderr:
        event = json.loads(line)
        events.append(event)
        if event["step"] == step and event["kind"] == "step-started":
            time.sleep(0.4)
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"{step} was never reached: {events[-3:]}"
    return events


def finished(home: Path) -> set[str]:
    """Kinds of finished artifacts; every folder that is visible must be whole."""
    kinds = set()
    for folder in (home / "cache" / "store" / "v1" / "artifacts").glob("*"):
        manifest = json.loads((folder / "manifest.json").read_text())
        for file in manifest["files"]:
            assert (folder / file["path"]).stat().st_size == file["bytes"]
        kinds.add(folder.name.rsplit("-", 1)[0])
    return kinds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Path]:
    """A fresh home with the shared environments in it."""
    for name in ("llama.cpp", "convert"):
        run(shared_home, "env", "build", name)
    fresh = tmp_path_factory.mktemp("home of up")
    (fresh / "cache").mkdir()
    (fresh / "cache" / "envs").symlink_to(shared_home / "cache" / "envs")
    yield fresh
    run(fresh, "down", "--all", check=False)


def test_killed_at_every_step_it_finishes_and_repeats_nothing(home: Path) -> None:
    """kill -9 at each step, then the same command: no half-made artifact, no finished step done again."""
    for step in STEPS_TO_KILL:
        run_until(home, step)
        finished(home)
    before = finished(home)
    assert set(KEPT) <= before
    document = run(home, "up")
    data = document["data"]
    outcomes = {s["name"]: s["outcome"] for s in data["steps"]}
    assert all(outcomes[s] == "reused" for s in KEPT if s in outcomes), outcomes
    assert finished(home) == before
    assert data["deployment"]["state"] == "ready"
    assert data["receipt"]["answer"].strip()
    for what in ("memory", "decode", "prefill"):
        for side in ("predicted", "measured"):
            assert data["receipt"][side][what]["value"] > 0, (side, what)
    # The run that launched was killed: whoever takes the server over did not see it start, and unknown is unknown.
    assert data["receipt"]["predicted"]["start"]["value"] > 0
    start = data["receipt"]["measured"]["start"]
    assert start is None or start["value"] > 0


def test_measured_memory_is_what_was_predicted(home: Path) -> None:
    """Within 8 % of the prediction, and not above its upper bound."""
    receipt = run(home, "up")["data"]["receipt"]
    predicted, measured = receipt["predicted"]["memory"], receipt["measured"]["memory"]
    assert abs(receipt["error"]["memory_ratio"] - 1) <= 0.08, (predicted, measured)
    assert measured["value"] <= predicted["high"]


def test_a_second_up_reuses_artifact_and_server(home: Path) -> None:
    """Same server, same receipt, nothing made."""
    first = run(home, "status")["data"]["deployments"]
    data = run(home, "up")["data"]
    assert [s["name"] for s in data["steps"]] == ["decide", "launch", "smoke"]
    assert data["deployment"]["pid"] == first[0]["pid"]
    assert data["receipt"]["measured"]["decode"]["value"] > 0


def test_the_openai_client_gets_an_answer(home: Path) -> None:
    """The real client against the endpoint."""
    from openai import OpenAI

    (deployment,) = run(home, "status")["data"]["deployments"]
    with OpenAI(base_url=deployment["openai_base_url"], api_key="none", max_retries=0) as client:
        assert [m.id for m in client.models.list()] == [deployment["model"]]
        reply = client.chat.completions.create(
            model=deployment["model"],
            messages=[{"role": "user", "content": "Say hello in one short sentence."}],
            max_tokens=24,
        )
    assert (reply.choices[0].message.content or "").strip()
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0


def test_logs_restart_and_down(home: Path) -> None:
    """The rest of a deployment's life."""
    (before,) = run(home, "status")["data"]["deployments"]
    name = before["name"]
    logs = subprocess.run(
        [sys.executable, "-m", "advisor", "logs", name, "-n", "200"],
        env={**os.environ, "ADVISOR_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "llama" in logs.stdout
    restarted = run(home, "restart", name)["data"]
    assert restarted["deployments"][0]["state"] == "ready"
    assert restarted["deployments"][0]["pid"] != before["pid"]
    run(home, "down", name)
    (after,) = run(home, "status")["data"]["deployments"]
    assert after["state"] == "stopped"
    again = run(home, "down", name)["data"]["deployments"][0]
    assert again["state"] == "stopped"
    # Launched and waited for by one run: its start is measured.
    receipt = run(home, "up")["data"]["receipt"]
    assert receipt["measured"]["start"]["value"] > 0
    run(home, "down", name)


def test_the_installer_example_plans_shows_and_deploys(home: Path, repo: Path) -> None:
    """examples/installer.py, the way a user would run it."""
    env = {**os.environ, "ADVISOR_HOME": str(home)}
    script = str(repo / "examples" / "installer.py")
    planned = subprocess.run(
        [sys.executable, script, "--plan-only"], env=env, capture_output=True, text=True, timeout=300
    )
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("1. ")
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "endpoint: http://127.0.0.1:" in done.stdout
    assert "measured" in done.stdout
    run(home, "down", "installer-demo")
