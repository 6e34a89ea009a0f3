"""The same question has the same answer, to the byte: whatever the hash seed, locale, time zone or order of rules."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from advisor import api, datafiles
from advisor.cli.views import plans as view
from advisor.guide.load import load_pack

REPO = Path(__file__).resolve().parents[2]
MACHINES = REPO / "tests" / "fixtures" / "machines"
LINES = [
    ("8B", "rtx-4090-desktop", "chat"),
    ("30.5B:3.3B", "cgroup-v2-limit", "smallest-memory"),
]


def answer(model: str, machine: str, goal: str, *, cold: bool = False, **env: str) -> bytes:
    if cold:
        shutil.rmtree(Path(os.environ["ADVISOR_HOME"]) / "cache", ignore_errors=True)
    words = ["recommend", model, "--goal", goal, "--machine", str(MACHINES / machine), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *words],
        cwd=REPO,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


@pytest.mark.parametrize("line", LINES)
def test_seed_locale_zone_and_cache_change_nothing(line: tuple[str, str, str]) -> None:
    first = answer(*line, PYTHONHASHSEED="0", LC_ALL="C", TZ="UTC")
    assert b'"plans"' in first
    for env in (
        {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu"},
        {"PYTHONHASHSEED": "4242", "LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "America/St_Johns"},
        {"PYTHONHASHSEED": "77", "LC_NUMERIC": "de_DE.UTF-8", "PYTHONUTF8": "0", "COLUMNS": "20", "NO_COLOR": "1"},
    ):
        assert answer(*line, **env) == first
    assert answer(*line, cold=True, PYTHONHASHSEED="3") == first


@pytest.mark.parametrize("line", LINES)
def test_the_order_of_rules_changes_nothing(line: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, machine, goal = line
    pack = load_pack()

    def ask() -> bytes:
        report = api.recommend(model, machine=MACHINES / machine, goal=goal)
        return msgspec.json.encode(view.data(report).to_json())

    first = ask()
    for seed in range(3):
        rules = list(pack.rules)
        random.Random(seed).shuffle(rules)
        shuffled = msgspec.structs.replace(pack, rules=tuple(rules))
        monkeypatch.setattr("advisor.api.planning.rule_pack", lambda _, s=shuffled: s)
        assert ask() == first


def test_the_order_of_files_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules in files of other names, on a file system that lists them in another order."""
    model, machine, goal = LINES[0]

    def ask() -> bytes:
        report = api.recommend(model, machine=MACHINES / machine, goal=goal)
        return msgspec.json.encode([p.to_json() for p in report.plans])

    first = ask()
    for i, path in enumerate(reversed(datafiles.data_files(datafiles.rules_dir()))):
        shutil.copy(path, tmp_path / f"{i:02d}.yaml")
    renamed = load_pack(bundled=tmp_path)
    monkeypatch.setattr("advisor.api.planning.rule_pack", lambda _: renamed)
    assert ask() == first
