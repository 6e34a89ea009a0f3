"""Limits of shells and control groups: which are set, in words, and what lifts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor.probes import process_limits

GIB = 1 << 30
TELL = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
kind = getattr(resource, sys.argv[2])
hard = resource.RLIM_INFINITY if sys.argv[4] == "none" else int(sys.argv[4])
resource.setrlimit(kind, (int(sys.argv[3]), hard))
import os
os.geteuid = lambda: 1000
from advisor.probes import process_limits
print(json.dumps([process_limits.addresses(), process_limits.processes(), process_limits.addresses_in_the_way()]))
"""
REPO = Path(__file__).resolve().parents[3]


def told(name: str, soft: int, hard: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", TELL, str(REPO), name, str(soft), hard], capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


def test_a_soft_limit_is_lifted_by_the_shell_and_a_hard_one_by_an_administrator() -> None:
    space, _, in_the_way = told("RLIMIT_AS", 2 * GIB, "none")
    assert space[:2] == ["addresses", 2 * GIB] and "2048 MiB of addresses (ulimit -v 2097152)" in space[2]
    assert space[3] == "ulimit -S -v unlimited"
    assert in_the_way == 2 * GIB
    space, _, _ = told("RLIMIT_AS", 2 * GIB, str(4 * GIB))
    assert space[3] == "sudo prlimit --pid $$ --as=unlimited  # the hard limit is 4194304"
    _, processes, _ = told("RLIMIT_NPROC", 77, "4000")
    assert processes[:2] == ["processes", 77] and "ulimit -u 77" in processes[2]
    assert processes[3].endswith("# the hard limit is 4000")


def test_addresses_beyond_the_memory_are_in_nobodys_way() -> None:
    space, _, in_the_way = told("RLIMIT_AS", 1 << 55, "none")
    assert space is not None and in_the_way is None


@pytest.mark.parametrize("version", [1, 2])
def test_the_group_with_the_fewest_tasks_left_is_named(tmp_path: Path, version: int) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    line = "0::/outer/inner\n" if version == 2 else "7:memory:/m\n5:pids:/outer/inner\n"
    (proc / "self" / "cgroup").write_text(line)
    top = root if version == 2 else root / "pids"
    for folder, limit, used in (("", None, 0), ("outer", 100, 98), ("outer/inner", "max", 3)):
        where = top / folder
        where.mkdir(parents=True, exist_ok=True)
        (where / "cgroup.procs").write_text("")
        (where / "pids.current").write_text(f"{used}\n")
        if limit is not None:
            (where / "pids.max").write_text(f"{limit}\n")
    found = process_limits.tasks(proc=proc, root=root)
    assert found is not None
    assert (found.kind, found.limit) == ("tasks", 100)
    assert f"{top / 'outer'} (pids.max), 98 of them there now" in found.words
    assert found.lift == f"echo max | sudo tee {top / 'outer'}/pids.max"
    (top / "outer" / "pids.max").write_text("max\n")
    assert process_limits.tasks(proc=proc, root=root) is None


def test_what_is_met_depends_on_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = {
        kind: process_limits.Bound(kind, 10_000, kind, f"lift {kind}")  # type: ignore[arg-type]
        for kind in ("addresses", "processes", "tasks")
    }
    monkeypatch.setattr(process_limits, "addresses", lambda: bounds["addresses"])
    monkeypatch.setattr(process_limits, "processes", lambda: bounds["processes"])
    monkeypatch.setattr(process_limits, "tasks", lambda: bounds["tasks"])
    monkeypatch.setattr(process_limits, "addresses_in_the_way", lambda: None)
    assert [b.kind for b in process_limits.met("address-space")] == ["addresses"]
    assert [b.kind for b in process_limits.met("thread-limit")] == ["tasks", "processes", "addresses"]
    monkeypatch.setattr(process_limits, "addresses_in_the_way", lambda: 10_000)
    assert process_limits.met("thread-limit")[0].kind == "addresses"
