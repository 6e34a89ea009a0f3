"""kill -9 at every point of making an artifact: nothing half-made is found, and the next run makes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.execute.store import Store

CHILD = """
import sys
from pathlib import Path
from advisor.execute.store import Store
from tests.support.faults import kill_at

store = Store(Path(sys.argv[1]))
key = store.key("convert", {"n": 1})

def build(tmp):
    for i in range(3):
        (tmp / f"part{i}").write_bytes(bytes([i]) * 100_000)
    return {"made": True}

if sys.argv[2] != "-":
    kill_at(sys.argv[2], int(sys.argv[3]))
path, reused = store.make(key, build)
print(path, reused)
"""


def run_child(root: Path, call: str, n: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root), call, str(n)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        check=False,
    )


POINTS = [
    ("os.open", 1),  # before the lock
    ("fcntl.flock", 1),
    ("advisor.execute.store.file_sha256", 1),  # all parts written, none hashed
    ("os.fsync", 2),
    ("os.replace", 1),  # manifest written under its temporary name
    ("os.replace", 2),  # manifest in the folder, the folder not in place
    ("os.fsync", 6),  # the folder may be in place, its parent not flushed
    ("advisor.execute.store.remove_tree", 1),  # after the rename
]


@pytest.mark.parametrize(("call", "n"), POINTS)
def test_killed_anywhere_then_run_again(tmp_path: Path, call: str, n: int) -> None:
    killed = run_child(tmp_path, call, n)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = Store(tmp_path)
    key = store.key("convert", {"n": 1})
    there = store.find(key, verify=True)
    assert there is None or sorted(p.name for p in there.iterdir()) == ["manifest.json", "part0", "part1", "part2"]
    again = run_child(tmp_path, "-", 0)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split()[1] == str(there is not None)
    path = store.find(key, verify=True)
    assert path is not None
    assert store.manifest(path) == {"made": True}
    store.gc()
    assert not list((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "quarantine").exists()


def test_no_kill_point_is_dead(tmp_path: Path) -> None:
    """Far beyond the last call nothing is killed: the points above were really met."""
    assert run_child(tmp_path, "os.replace", 99).returncode == 0
