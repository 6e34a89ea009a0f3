"""kill -9 while an environment is built: nothing keeps running, and the same command builds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor import settings
from advisor.backends.pins import BackendPins, PackagePin
from advisor.execute import envs

CHILD = """
from advisor import settings
from advisor.execute import envs
from tests.faults.test_env_killed import PINS
envs.ensure("tiny", settings=settings.load(), pins=PINS)
"""
PINS = BackendPins(
    name="tiny",
    description="for tests",
    python=">=3.11",
    packages=(PackagePin(name="six", version="1.17.0", why="w", source="s"),),
    health="pip_check.py",
    capabilities=(),
    disk_bytes=1000,
    source="s",
)


def using(home: Path) -> list[int]:
    """Processes with a word of ``home`` on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(home).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 1.0, 3.0])
def test_killed_build_is_cleared_and_done_again(tmp_path: Path, seconds: float) -> None:
    home = tmp_path / "home"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "ADVISOR_HOME": str(home), "PYTHONPATH": "."},
    ) as child:
        until = time.monotonic() + 60
        while not using(home) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while using(home) and time.monotonic() < until:
        time.sleep(0.05)
    assert using(home) == []
    mine = settings.load(env={"ADVISOR_HOME": str(home)})
    env = envs.ensure("tiny", settings=mine, pins=PINS)
    assert envs.installed(Path(env.path))["six"] == "1.17.0"
    assert [p.name for p in Path(env.path).parent.iterdir() if p.is_dir()] == [Path(env.path).name]
