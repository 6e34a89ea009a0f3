"""Recorded machines with limits and with figures that cannot be: the limit counts, and nonsense is not planned on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.cli.main import main

MACHINES = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "machines"
GIB = 2**30
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run one command line with ``--json``: its exit code and its document."""

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        capfd.readouterr()
        code = main([*words, "--json"])
        return code, json.loads(capfd.readouterr().out)

    return call


def changed(tmp_path: Path, name: str, changes: dict[str, Callable[[str], str]]) -> Path:
    """A copy of a recorded machine with some of its files rewritten."""
    folder = tmp_path / name
    shutil.copytree(MACHINES / name, folder)
    for file, change in changes.items():
        (path,) = folder.rglob(file)
        path.write_text(change(path.read_text()))
    return folder


# ------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("name", "limit", "available", "cores"),
    [("cgroup-v2-limit", 6 * GIB, 4 * GIB, 1.5), ("cgroup-v1-limit-and-quota", 2 * GIB, GIB + GIB // 4, 2.5)],
)
def test_the_limit_of_the_group_counts_and_not_the_host(
    ask: Ask, name: str, limit: int, available: int, cores: float
) -> None:
    code, document = ask("probe", "--machine", str(MACHINES / name))
    host = document["data"]["machine"]["host"]
    assert code == 0
    assert (host["memory"]["limit_bytes"], host["memory"]["available_bytes"]) == (limit, available)
    assert host["memory"]["total_bytes"] > limit
    assert host["cpu"]["cores_granted"] == cores
    for model in ("1.7B", "3B", "8B", "14B"):
        code, document = ask("recommend", model, "--machine", str(MACHINES / name))
        for plan in document["data"]["plans"]:
            assert plan["memory"]["total"]["value"] <= available, (model, plan["format"])
            assert plan["settings"]["threads"] is None or plan["settings"]["threads"] <= max(1, int(cores))
        assert code == (0 if document["data"]["plans"] else 3)


def test_the_same_machine_without_its_limit_holds_more(ask: Ask, tmp_path: Path) -> None:
    free = changed(tmp_path, "cgroup-v2-limit", {})
    lifted = 0
    for pattern in ("memory.max", "memory.high"):
        for path in free.rglob(pattern):
            path.write_text("max\n")
            lifted += 1
    assert lifted
    code, document = ask("recommend", "8B", "--machine", str(MACHINES / "cgroup-v2-limit"))
    tight = max((p["memory"]["total"]["value"] for p in document["data"]["plans"]), default=0)
    code, document = ask("recommend", "8B", "--machine", str(free))
    assert code == 0
    assert max(p["memory"]["total"]["value"] for p in document["data"]["plans"]) > tight


def test_nothing_fits_says_which_memory_was_short(ask: Ask) -> None:
    code, document = ask("recommend", "70B", "--machine", str(MACHINES / "cgroup-v1-limit-and-quota"))
    assert (code, document["data"]["plans"]) == (3, [])
    assert any(r["short_by"] for r in document["data"]["rejected"])


# ------------------------------------------------------------------------------ nonsense


@pytest.mark.parametrize("total", ["9223372036854775808 kB", "99999999999999999999999 kB", "-5 kB", "0 kB", "much"])
def test_absurd_host_memory_is_not_planned_on(ask: Ask, tmp_path: Path, total: str) -> None:
    def absurd(text: str) -> str:
        return "\n".join(f"MemTotal: {total}" if row.startswith("MemTotal") else row for row in text.splitlines())

    folder = changed(tmp_path, "rtx-4090-desktop", {"meminfo": absurd})
    for words in (["probe"], ["recommend", "8B"]):
        code, document = ask(*words, "--machine", str(folder))
        machine = document["data"]["machine"]
        assert code == 0
        assert machine["host"]["memory"]["total_bytes"] == 64 * GIB  # what the system itself said
        notes = [p for p in machine["provenance"] if p["what"] == "memory.total_bytes"]
        assert any(p["source"] == "sysconf" and "/proc/meminfo" in p["note"] for p in notes)


def test_without_any_sane_memory_there_is_no_plan(ask: Ask, tmp_path: Path) -> None:
    def absurd(text: str) -> str:
        said = json.loads(text)
        said["platform"]["memory_bytes"] = 2**63
        return json.dumps(said)

    folder = changed(tmp_path, "rtx-4090-desktop", {"meminfo": lambda _: "MemTotal: 0 kB\n", "bundle.json": absurd})
    for words in (["probe"], ["recommend", "8B"]):
        code, document = ask(*words, "--machine", str(folder))
        assert (code, document["error"]["code"]) == (1, "probe-failed")


@pytest.mark.parametrize(
    ("key", "value"), [("total", 2**63), ("total", -1), ("total", "lots"), ("free", 2**62), ("total", 0)]
)
def test_absurd_device_memory_is_unknown_and_not_planned_on(ask: Ask, tmp_path: Path, key: str, value: object) -> None:
    def absurd(text: str) -> str:
        said = json.loads(text)
        said["replies"]["nvml"]["devices"][0]["memory"][key] = value
        return json.dumps(said)

    folder = changed(tmp_path, "rtx-4090-desktop", {"bundle.json": absurd})
    code, document = ask("recommend", "32B", "--machine", str(folder))
    (device,) = document["data"]["machine"]["devices"]
    assert device["memory"][f"{key}_bytes"] != 0
    assert device["memory"][f"{key}_bytes"] is None or device["memory"][f"{key}_bytes"] < 2**40
    assert any("gpu0" in w["message"] or "memory" in w["message"] for w in document["warnings"])
    assert code == 0
    for plan in document["data"]["plans"]:
        used = plan["memory"]["by_device"].get("gpu0")
        if used is not None and device["memory"]["total_bytes"] is None:
            # Not judged by a figure that cannot be: said to be undecided, and never called ready.
            assert any("fit.fits not known" in w for w in plan["warnings"])
            assert plan["status"] != "ready"
        elif used is not None:
            assert used["value"] <= device["memory"]["total_bytes"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("devices", 0, "bandwidth", "value"), -1),
        (("devices", 0, "bandwidth", "value"), 10**18),
        (("devices", 0, "compute_capability"), -8.9),
        (("host", "cpu", "cores_granted"), -2),
        (("host", "memory", "available_bytes"), -1),
        (("host", "memory", "limit_bytes"), 2**62),
    ],
)
def test_absurd_figures_in_a_machine_file_are_marked(
    ask: Ask, tmp_path: Path, path: tuple[str | int, ...], value: float
) -> None:
    _, document = ask("probe", "--machine", str(MACHINES / "rtx-4090-desktop"))
    place: Any = document["data"]["machine"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file = tmp_path / "machine.json"
    file.write_text(json.dumps(document))
    code, said = ask("recommend", "8B", "--machine", str(file))
    assert code == 0
    assert "probe-invalid-value" in [w["code"] for w in said["warnings"]]
    for plan in said["data"]["plans"]:
        for part in ("prefill", "decode"):
            rate = plan["speed"][part]
            assert rate is None or 0 < rate["value"] < 10**7


@pytest.mark.parametrize("value", [2**63, 2**70, 1e400, "64GB", None])
def test_a_machine_file_without_a_usable_memory_is_refused(ask: Ask, tmp_path: Path, value: object) -> None:
    _, document = ask("probe", "--machine", str(MACHINES / "rtx-4090-desktop"))
    document["data"]["machine"]["host"]["memory"]["total_bytes"] = value
    file = tmp_path / "machine.json"
    file.write_text(json.dumps(document))
    code, said = ask("recommend", "8B", "--machine", str(file))
    assert (code, said["error"]["code"]) == (2, "bad-machine-file")
    assert said["error"]["hint"]


@pytest.mark.parametrize("value", ["9223372036854775808", "1e30GB", "0", "-1"])
@pytest.mark.parametrize("option", ["--memory", "--vram", "--bandwidth", "--max-memory"])
def test_absurd_sizes_on_the_command_line(ask: Ask, option: str, value: str) -> None:
    code, said = ask("recommend", "8B", "--hardware", "rtx-4090", f"{option}={value}")
    assert code in (2, 3) or option == "--max-memory"
    if code == 2:
        assert said["error"]["code"] == "bad-option"
