"""``make gpu-check`` on a machine without a GPU: every part says so by itself, and nothing else fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import advisor
from advisor.facts.words import EXIT_MACHINE

REPO = Path(__file__).resolve().parents[2]


def test_every_part_says_by_itself_that_it_is_not_available(tmp_path: Path) -> None:
    if any(d.unusable is None for d in advisor.probe().machine.devices):
        pytest.skip("there is a GPU here: make gpu-check")
    written = tmp_path / "gpu.md"
    done = subprocess.run(
        [sys.executable, str(REPO / "benchmarks" / "gpu_check.py"), "--write", str(written)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == EXIT_MACHINE, done.stderr
    assert done.stdout == written.read_text(encoding="utf-8")
    parts = done.stdout.split("\n## ")[1:]
    assert len(parts) == 6
    assert all("not available here: " in part for part in parts), done.stdout
    assert "failed:" not in done.stdout
