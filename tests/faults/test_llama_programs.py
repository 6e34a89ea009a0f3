"""llama.cpp found or compiled on a machine that does not play along: no compiler, no tools, kill -9, damaged builds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advisor import settings
from advisor.execute.llama import build
from tests.support import fake_llama, tiny_tree
from tests.unit.planner import planner_fakes as fakes

REPO = Path(__file__).resolve().parents[2]
CHILD = """
import shutil, sys
from pathlib import Path
from advisor import settings
from advisor.execute import env_build
from advisor.execute.llama import build
from tests.faults import test_llama_programs as t
env_build.make_venv, env_build.download, env_build.check_health = t.venv, t.download, t.health
build.ensure(t.recipe(Path(sys.argv[1])), t.fakes.cpu_only(), settings=t.home(Path(sys.argv[1])))
"""


def home(folder: Path) -> settings.Settings:
    return settings.load(env={"ADVISOR_HOME": str(folder / "home")})


def recipe(folder: Path) -> build.Recipe:
    archive = folder / "tiny-1.tar.gz"
    if not archive.exists():
        tiny_tree.archive(archive)
    import hashlib

    raw = archive.read_bytes()
    pin = tiny_tree.pin(archive.name, hashlib.sha256(raw).hexdigest(), len(raw))
    base = home(folder).paths.envs / "llama.cpp-build-0123456789abcdef"
    flags = (f"-DPYTHON={sys.executable}",)
    return build.Recipe("cpu", flags, tiny_tree.tools(), base, tiny_tree.pins(pin), ("llama-server", "llama-quantize"))


def venv(_: str, folder: Path, **__: object) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)


def download(*args: object, **_: object) -> dict[str, object]:
    import hashlib
    import shutil

    dest = args[3]
    assert isinstance(dest, Path)
    (archive,) = [f for p in dest.parents for f in p.glob("tiny-1.tar.gz")]
    path = Path(shutil.copy(archive, dest))
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def health(*_: object, **__: object) -> dict[str, object]:
    return {"tokens": 2}


def advisor(folder: Path, *words: str, **variables: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *words, "--json"],
        cwd=REPO,
        env={**os.environ, "ADVISOR_HOME": str(folder / "home"), **variables},
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("kill_at", ["one", "slow"])
def test_a_killed_compilation_goes_on(tmp_path: Path, kill_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    try:
        until = time.monotonic() + 60
        log: list[str] = []
        while kill_at not in log and time.monotonic() < until and child.poll() is None:
            for work in made.base.glob("work.*"):
                (work / "build").mkdir(exist_ok=True, parents=True) if (work / "source").is_dir() else None
                if (work / "build").is_dir():
                    (work / "build" / "hold").touch()
                steps = work / "build" / "steps.log"
                log = steps.read_text().split() if steps.exists() else []
            time.sleep(0.01)
        assert kill_at in log
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (made.base / "complete.json").exists()
    for module, name in (("make_venv", venv), ("download", download), ("check_health", health)):
        monkeypatch.setattr(f"advisor.execute.env_build.{module}", name)
    (work,) = made.base.glob("work.*")
    (work / "build" / "hold").unlink()
    seen: list[str] = []

    def hear(event: object, /) -> None:
        steps = work / "build" / "steps.log"
        seen[:] = steps.read_text().split() if steps.exists() else seen

    env = build.ensure(made, fakes.cpu_only(), settings=home(tmp_path), reporter=hear)
    assert sorted(build.programs(env)) == ["llama-quantize", "llama-server"]
    assert seen.count("three") == 1
    assert kill_at == "one" or seen.count("one") == 1
    assert [p.name for p in made.base.iterdir() if p.is_dir()] == [Path(env.path).name]


def test_no_compiler_is_named_with_everything_else_that_is_missing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, document = advisor(tmp_path, "env", "build", "llama.cpp", "--provider", "build", PATH=str(empty))
    assert code == 5
    error = document["error"]
    assert isinstance(error, dict)
    assert error["code"] == "tool-missing"
    assert error["data"] == {"backend": "cpu", "missing": ["cc", "c++"]}
    assert error["hint"] == "advisor env build llama.cpp --provider wheel"
    code, document = advisor(tmp_path, "env", "build", "llama-cpp-python", PATH=str(empty))
    assert code == 5
    assert document["error"]["code"] == "tool-missing"  # type: ignore[index]


def test_offline_nothing_is_compiled(tmp_path: Path) -> None:
    fakes_ = tmp_path / "bin"
    fakes_.mkdir()
    for name in ("cc", "c++", "cmake", "ninja"):
        (fakes_ / name).write_text("#!/bin/sh\necho cmake version 3.25.1\n")
        (fakes_ / name).chmod(0o755)
    path = f"{fakes_}:/usr/bin:/bin"
    words = ("env", "build", "llama.cpp", "--provider", "build")
    code, document = advisor(tmp_path, *words, PATH=path, ADVISOR_OFFLINE="1")
    assert code == 6
    assert document["error"]["code"] == "offline"  # type: ignore[index]


def test_a_build_that_somebody_damaged_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(tmp_path)
    for module, name in (("make_venv", venv), ("download", download), ("check_health", health)):
        monkeypatch.setattr(f"advisor.execute.env_build.{module}", name)
    env = build.ensure(made, fakes.cpu_only(), settings=home(tmp_path))
    for program in build.programs(env).values():
        Path(program).unlink()
    digest = build.pins("llama.cpp-build").digest
    monkeypatch.setattr(build, "pins", lambda _: made.pins)
    assert digest != made.pins.digest
    assert build.find_built(home(tmp_path)) == ()
    (Path(env.path) / "bin" / "python").unlink()
    again = build.ensure(made, fakes.cpu_only(), settings=home(tmp_path))
    assert again.path != env.path
    assert [e.path for e in build.find_built(home(tmp_path))] == [again.path]


def test_a_polluted_environment_does_not_reach_programs_on_path(tmp_path: Path) -> None:
    fake_llama.write(tmp_path / "programs")
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "json.py").write_text("raise SystemExit('polluted')")
    (evil / "sitecustomize.py").write_text("raise SystemExit('polluted')")
    (evil / "http").mkdir()
    code, document = advisor(
        tmp_path,
        "env",
        "build",
        "llama.cpp",
        "--provider",
        "path",
        ADVISOR_LLAMA_CPP_DIR=str(tmp_path / "programs"),
        LD_LIBRARY_PATH=str(evil),
        LD_PRELOAD="",
    )
    assert (code, document.get("error")) == (0, None)
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, sys.argv[1]); from advisor.cli.main import run; "
         "sys.argv = ['advisor', 'env', 'build', 'llama.cpp', '--provider', 'path', '--json']; run()", str(REPO)],
        env={
            **os.environ,
            "ADVISOR_HOME": str(tmp_path / "home"),
            "ADVISOR_LLAMA_CPP_DIR": str(tmp_path / "programs"),
            "PYTHONPATH": str(evil),
            "PYTHONHOME": "",
        },
        capture_output=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
