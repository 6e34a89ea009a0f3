"""kill -9 between and inside the steps of a run, then the same run again: it resumes and repeats no finished step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.execute.journal import Journal
from advisor.execute.store import Store

CHILD = """
import os, signal, sys
from pathlib import Path
from advisor.execute.journal import Journal
from advisor.execute.steps import Outcome, Step, Steps
from advisor.execute.store import Store

root, stop_in, stop_at = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store, steps = Store(root / "store"), Steps(journal=Journal(root / "journal"))

def die(name, where):
    if (name, where) == (stop_in, stop_at):
        os.kill(os.getpid(), signal.SIGKILL)

def step(name, source):
    key = store.key(name, {"source": source})
    def build(tmp):
        with (root / "made").open("a") as f:
            f.write(name + "\\n")
        (tmp / "half").write_bytes(b"1")
        die(name, "inside")
        (tmp / "whole").write_bytes(name.encode() * 1000)
        (tmp / "half").unlink()
        return {"name": name}
    def run():
        path, reused = store.make(key, build)
        return Outcome(path, reused)
    path = steps.do(Step(name, run, key))
    die(name, "after")
    return key

key = ""
for name in ("fetch", "convert", "quantize"):
    key = step(name, key)
print(key)
"""


def run(root: Path, name: str = "-", where: str = "-") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root), name, where],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
        env={**os.environ},
    )


@pytest.mark.parametrize("where", ["inside", "after"])
@pytest.mark.parametrize("name", ["fetch", "convert", "quantize"])
def test_resumed_run_repeats_no_finished_step(tmp_path: Path, name: str, where: str) -> None:
    assert run(tmp_path, name, where).returncode == -signal.SIGKILL
    store = Store(tmp_path / "store")
    before = [e.key.split("-")[0] for e in store.entries()]
    assert len(before) == ["fetch", "convert", "quantize"].index(name) + (where == "after")
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    made = (tmp_path / "made").read_text().split()
    expected = ["fetch", "convert", "quantize"]
    if where == "inside":
        expected.insert(expected.index(name), name)
    assert made == expected
    path = store.find(again.stdout.strip(), verify=True)
    assert path is not None
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "whole"]
    collected = store.gc()
    assert len(collected.removed) == (where == "inside")
    assert [line["what"] for line in Journal(tmp_path / "journal").last() if line["what"] == "reused"] == [
        "reused" for _ in before
    ]
