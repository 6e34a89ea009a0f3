from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from advisor import settings
from advisor.backends import pins as pins_
from advisor.backends.pins import BackendPins, PackagePin
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute import env_build, envs, owner, pythons
from advisor.execute.proc import Completed
from advisor.settings import Settings


def make_pins(name: str = "tiny", version: str = "1.17.0", python: str = ">=3.11") -> BackendPins:
    return BackendPins(
        name=name,
        description="for tests",
        python=python,
        packages=(PackagePin(name="six", version=version, why="w", source="s"),),
        health="pip_check.py",
        capabilities=(),
        disk_bytes=1000,
        source="s",
    )


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")})


class FakeBuild:
    """Stands in for the venv and pip: the folders they would make."""

    def __init__(self) -> None:
        self.count = 0
        self.fail: Exception | None = None
        self.delay = 0.0

    def __call__(self, pins: BackendPins, folder: Path, python: Any, **_: Any) -> dict[str, Any]:
        self.count += 1
        time.sleep(self.delay)
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)
        if self.fail:
            raise self.fail
        site = folder / "lib" / "python3.11" / "site-packages"
        for name in ("six-1.17.0", "typing_extensions-4.1"):
            (site / f"{name}.dist-info").mkdir(parents=True)
        return {"works": True}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> FakeBuild:
    fake = FakeBuild()
    monkeypatch.setattr(env_build, "build", fake)
    return fake


def ensure(home: Settings, pins: BackendPins | None = None, **kwargs: Any) -> envs.Env:
    return envs.ensure("tiny", settings=home, pins=pins or make_pins(), **kwargs)


def test_built_once_and_reused(home: Settings, build: FakeBuild) -> None:
    assert not envs.is_ready(make_pins(), home)
    env = ensure(home)
    assert ensure(home) == env
    assert build.count == 1
    assert envs.is_ready(make_pins(), home)
    assert env.health == {"works": True}
    assert Path(env.python).exists()
    (info,) = envs.list_envs(settings=home)
    assert (info.name, info.built, info.packages, info.current) == ("tiny", True, 2, False)
    assert info.bytes > 0


def test_other_pins_are_another_environment(home: Settings, build: FakeBuild) -> None:
    assert ensure(home).path != ensure(home, make_pins(version="1.16.0")).path
    assert len(envs.list_envs(settings=home)) == 2


@pytest.mark.parametrize("damage", ["interpreter", "package added", "package removed", "marker", "marker half"])
def test_damaged_environment_is_rebuilt(home: Settings, build: FakeBuild, damage: str) -> None:
    env = ensure(home)
    site = Path(env.path) / "lib" / "python3.11" / "site-packages"
    marker = Path(env.path).parent / envs.MARKER
    if damage == "interpreter":
        Path(env.python).unlink()
    elif damage == "package added":
        (site / "numpy-1.0.dist-info").mkdir()
    elif damage == "package removed":
        (site / "six-1.17.0.dist-info").rmdir()
    elif damage == "marker":
        marker.unlink()
    else:
        marker.write_bytes(marker.read_bytes()[:50])
    report = envs.doctor("tiny", settings=home, pins=make_pins())
    assert not report.healthy
    assert report.problems
    events: list[Event] = []
    again = ensure(home, reporter=events.append)
    assert build.count == 2
    assert [e.kind for e in events] == ["warning"]
    assert again.path != env.path
    assert not Path(env.path).exists()


def test_failed_build_leaves_nothing_and_is_tried_again(home: Settings, build: FakeBuild) -> None:
    build.fail = AdvisorError("network", "m")
    with pytest.raises(AdvisorError):
        ensure(home)
    (base,) = [p for p in home.paths.envs.iterdir() if p.name != "locks"]
    assert list(base.iterdir()) == []
    build.fail = None
    ensure(home)
    assert build.count == 2


def test_leftover_of_a_killed_build_is_cleared(home: Settings, build: FakeBuild) -> None:
    env = ensure(home)
    base = Path(env.path).parent
    (base / envs.MARKER).unlink()
    (base / f"{owner.kernel()}.1.0.abc").mkdir()
    again = ensure(home)
    assert [p.name for p in base.iterdir() if p.is_dir()] == [Path(again.path).name]


def test_offline_builds_nothing_but_uses_what_is_there(home: Settings, build: FakeBuild, tmp_path: Path) -> None:
    offline = settings.load(flags={"offline": True}, env={"ADVISOR_HOME": str(tmp_path / "home")})
    with pytest.raises(AdvisorError) as e:
        ensure(offline)
    assert (e.value.code, build.count) == ("offline", 0)
    assert ensure(home) == ensure(offline)


def test_two_at_once_build_once(home: Settings, build: FakeBuild) -> None:
    build.delay = 0.3
    got: list[envs.Env] = []
    events: list[Event] = []
    threads = [threading.Thread(target=lambda: got.append(ensure(home, reporter=events.append))) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert build.count == 1
    assert got[0] == got[1]
    assert "note" in {e.kind for e in events}


def test_remove(home: Settings, build: FakeBuild) -> None:
    ensure(home)
    assert envs.remove("tiny", settings=home) > 0
    assert envs.list_envs(settings=home) == ()
    with pytest.raises(AdvisorError) as e:
        envs.remove("tiny", settings=home)
    assert e.value.code == "backend-not-found"


def test_names_stay_inside(home: Settings, build: FakeBuild) -> None:
    with pytest.raises(AdvisorError) as e:
        ensure(home, make_pins(name="../evil"))
    assert e.value.code == "backend-not-found"


def test_healthy_and_unhealthy_report(home: Settings, build: FakeBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(home)
    report = envs.doctor("tiny", settings=home, pins=make_pins())
    assert report.healthy, report
    assert "pip" in report.health

    def broken(*_: Any, **__: Any) -> None:
        raise AdvisorError("env-failed", "no such library", context=["line"])

    monkeypatch.setattr(env_build, "check_health", broken)
    assert envs.doctor("tiny", settings=home, pins=make_pins()).problems == ("no such library", "line")


@pytest.mark.parametrize(
    ("wanted", "minor", "fits"),
    [
        (">=3.11,<3.14", 11, True),
        (">=3.11,<3.14", 14, False),
        (">=3.11, <3.14", 13, True),
        ("==3.12.*", 12, True),
        ("==3.12.*", 11, False),
        ("!=3.12,>3.10,<=3.13", 13, True),
        ("!=3.12,>3.10,<=3.13", 12, False),
    ],
)
def test_python_ranges(wanted: str, minor: int, fits: bool) -> None:
    assert pythons.fits(minor, wanted) is fits


@pytest.mark.parametrize("bad", ["", "3.11", ">=2.7", "~=3.11", ">=3.11;"])
def test_unreadable_ranges(bad: str) -> None:
    with pytest.raises(AdvisorError) as e:
        pythons.fits(11, bad)
    assert e.value.code == "bad-profile"


def test_interpreter_from_the_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pythons.choose_python(make_pins()).program == sys.executable
    (tmp_path / "python3.29").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pythons.choose_python(make_pins(python=">=3.28")).minor == "3.29"
    with pytest.raises(AdvisorError) as e:
        pythons.choose_python(make_pins(python=">=3.30,<3.31"))
    assert e.value.code == "tool-missing"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ERROR: No matching distribution found for six==9", "env-failed"),
        ("NewConnectionError: Failed to establish a new connection: [Errno 111] Connection refused", "network"),
        ("Temporary failure in name resolution", "network"),
        ("OSError: [Errno 28] No space left on device", "disk-full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "integrity"),
    ],
)
def test_what_pip_says_is_understood(line: str, code: str, tmp_path: Path) -> None:
    done = Completed(1, 1.0, ("first", line), tmp_path / "log", False)
    error = env_build._pip_failed(done, "pip")
    assert error.code == code
    assert line in error.context


def test_parallel_jobs_stop_each_other() -> None:
    stopped = []

    def waits(stop: Cancel) -> None:
        while not stop.is_set:
            time.sleep(0.01)
        stopped.append(True)
        stop.check()

    def fails(stop: Cancel) -> None:
        raise AdvisorError("network", "first")

    with pytest.raises(AdvisorError) as e:
        env_build._both([waits, fails], Cancel())
    assert e.value.code == "network"
    assert stopped == [True]


def test_a_plan_bigger_than_the_disk(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_build, "free_bytes", lambda p: 10)
    with pytest.raises(AdvisorError) as e:
        ensure(home)
    assert e.value.code == "disk-full"
    assert e.value.data["needed_bytes"] == 1000


def locked_pins(*lines: str, resolved: tuple[str, ...] = (), variant: str | None = None) -> BackendPins:
    return msgspec.structs.replace(make_pins(), lock="t.txt", locked=lines, resolved=resolved, variant=variant)


class FakePip:
    """Stands in for pip: keeps what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[bool, str]] = []

    def __call__(self, argv: list[Any], *, log: Path, **_: Any) -> Completed:
        if "pip" in argv:
            self.calls.append(("--no-deps" in argv, Path(argv[argv.index("-r") + 1]).read_text()))
        return Completed(0, 0.0, (), log, False)


@pytest.mark.parametrize(
    ("pins", "calls"),
    [
        (make_pins(), [(False, "six==1.17.0\n")]),
        (locked_pins("six==1.17.0", "torch==2.13.0"), [(True, "six==1.17.0\ntorch==2.13.0\n")]),
        (
            locked_pins("six==1.17.0", "torch==2.13.0", resolved=("torch",)),
            [(True, "six==1.17.0\ntorch==2.13.0\n"), (False, "torch==2.13.0\n")],
        ),
    ],
)
def test_with_a_lock_only_what_the_build_of_torch_asks_for_is_resolved(
    pins: BackendPins, calls: list[tuple[bool, str]], home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip()
    asked: list[Any] = []
    monkeypatch.setattr(env_build, "run", pip)
    monkeypatch.setattr(env_build, "run_runner", lambda _env, _script, request, **_: asked.append(request) or {})
    ensure(home, pins)
    assert pip.calls == calls
    assert asked == [{}]


def test_the_health_check_is_told_the_variant(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fails(_env: Any, _script: str, request: Any, **_: Any) -> None:
        asked.append(request)
        raise AdvisorError("out-of-memory", "no device")

    monkeypatch.setattr(env_build, "run", FakePip())
    monkeypatch.setattr(env_build, "run_runner", fails)
    with pytest.raises(AdvisorError) as e:
        ensure(home, locked_pins("six==1.17.0", variant="cuda"))
    assert asked == [{"variant": "cuda"}]
    assert e.value.code == "env-failed"
    assert e.value.message == "The environment tiny (cuda) does not work: no device"


def test_variants_lie_side_by_side_and_are_told_apart(home: Settings, build: FakeBuild) -> None:
    paths = {envs.ensure("vllm", settings=home, variant=v).path for v in ("cpu", "cuda")}
    assert len(paths) == 2
    assert envs.ensure("vllm", settings=home).path in paths
    assert build.count == 2
    found = envs.list_envs(settings=home)
    assert sorted((e.variant, e.current, e.built) for e in found) == [("cpu", True, True), ("cuda", True, True)]
    assert envs.find("vllm", settings=home, variant="rocm") is None
    report = envs.doctor("vllm", settings=home, variant="rocm")
    assert report.problems == ("it is not built: advisor env build vllm --variant rocm",)
    with pytest.raises(AdvisorError) as e:
        envs.ensure("vllm", settings=home, variant="metal")
    assert e.value.code == "bad-option"


def test_an_environment_of_other_pins_is_shown_as_outdated(
    home: Settings, build: FakeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pins_.pins("transformers")
    envs.ensure("transformers", settings=home, pins=msgspec.structs.replace(old, locked=("six==1.17.0",)))
    (info,) = envs.list_envs(settings=home)
    assert (info.name, info.variant, info.built, info.current) == ("transformers", "cpu", True, False)
    assert envs.find("transformers", settings=home) is None


def test_a_package_that_the_index_lacks_is_named(tmp_path: Path) -> None:
    line = "ERROR: No matching distribution found for gptqmodel==99.0"
    error = env_build._pip_failed(Completed(1, 1.0, (line,), tmp_path / "log", False), "pip could not install x")
    assert error.code == "env-failed"
    assert error.message == (
        "pip could not install x: the package index has no gptqmodel==99.0 for this Python and platform."
    )


@pytest.mark.slow
def test_a_lock_with_a_version_that_does_not_exist(home: Settings) -> None:
    bad = locked_pins("six==1.17.0", "packaging==9999.1", variant="cpu")
    with pytest.raises(AdvisorError) as e:
        ensure(home, bad)
    assert e.value.code == "env-failed"
    assert "packaging==9999.1" in e.value.message
    assert "tiny (cpu)" in e.value.message
    assert not envs.is_ready(bad, home)


@pytest.mark.slow
def test_a_real_environment(home: Settings) -> None:
    events: list[Event] = []
    env = ensure(home, reporter=events.append)
    assert envs.installed(Path(env.path))["six"] == "1.17.0"
    assert env.health["pip"]
    assert any("six" in e.message for e in events)
    assert envs.doctor("tiny", settings=home, pins=make_pins()).healthy
    assert ensure(home) == env


@pytest.mark.slow
def test_a_package_that_does_not_exist(home: Settings) -> None:
    with pytest.raises(AdvisorError) as e:
        ensure(home, make_pins(version="99.99.99"))
    assert e.value.code == "env-failed"
    assert any("99.99.99" in line for line in e.value.context)
    assert not envs.is_ready(make_pins(version="99.99.99"), home)


@pytest.mark.slow
def test_an_unreachable_index(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(AdvisorError) as e:
        ensure(home)
    assert (e.value.code, e.value.exit_code) == ("network", 6)
