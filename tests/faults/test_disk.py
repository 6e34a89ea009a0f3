"""Disks that are full, over quota, out of inodes or read-only, at every write: a clean failure, and what was there
before is still there."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor import api, settings
from advisor.backends.pins import BackendPins, PackagePin
from advisor.cli.main import main
from advisor.deploy import keys, statefile
from advisor.errors import AdvisorError
from advisor.execute import env_build, envs, proc
from advisor.execute.journal import Journal
from advisor.execute.store import Store
from tests.support import scripted
from tests.support.faults import fail_nth, unwritable

FULL = (errno.ENOSPC, errno.EDQUOT)
# Every call through which the store, the environments and the state folder write.
WRITES = ("os.mkdir", "os.open", "io.open", "os.replace", "os.fsync")


def fails(work: Callable[[], object], call: str, n: int, error: int) -> AdvisorError | None:
    """Do ``work`` with its ``n``-th ``call`` failing: the error it ended with, ``None`` where the call was not met or
    did not matter."""
    with fail_nth(call, n, error) as calls:
        try:
            work()
        except AdvisorError as e:
            assert calls() >= n
            return e
    return None


def count(work: Callable[[], object], call: str) -> int:
    with fail_nth(call, 10**9) as calls:
        work()
    return calls()


# ------------------------------------------------------------------------------- store


def put(store: Store, key: str) -> Path:
    def build(tmp: Path) -> dict[str, object]:
        (tmp / "sub").mkdir()
        for name in ("a", "sub/b"):
            with (tmp / name).open("wb") as f:
                f.write(b"weights")
        return {"made": True}

    return store.make(key, build)[0]


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("call", WRITES)
def test_a_full_disk_at_every_write_of_the_store(tmp_path: Path, call: str, error: int) -> None:
    store = Store(tmp_path / "store")
    old = store.key("convert", {"old": 1})
    put(store, old)
    total = count(lambda: put(store, store.key("convert", {"count": 1})), call)
    assert total >= 1
    seen = []
    for n in range(1, total + 1):
        key = store.key("convert", {"n": n})
        found = fails(lambda key=key: put(store, key), call, n, error)  # type: ignore[misc]
        seen.append(found)
        if found is not None:
            assert (found.code, found.exit_code) == ("disk-full", 5)
            assert str(tmp_path) in found.message
        whole = store.find(key, verify=True)
        assert whole is not None or found is not None
        assert store.find(old, verify=True) is not None
        assert list((store.root / "tmp").iterdir()) == []
        assert put(store, key) == store.find(key, verify=True)
    assert any(seen)
    assert not (store.root / "quarantine").exists()


def test_data_that_does_not_reach_the_disk_is_not_published(tmp_path: Path) -> None:
    """Some file systems tell only at the flush that they are full."""
    store = Store(tmp_path / "store")
    key = store.key("convert", {})
    with fail_nth("os.fsync", 1), pytest.raises(AdvisorError) as e:
        put(store, key)
    assert e.value.code == "disk-full"
    assert store.find(key) is None


def test_a_file_system_without_flushing_of_folders_is_fine(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for n in range(1, 8):
        with fail_nth("os.fsync", n, errno.EINVAL):
            assert put(store, store.key("convert", {"n": n})).is_dir()


def test_a_read_only_cache_is_still_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    key = store.key("convert", {})
    there = put(store, key)
    os.utime(there / "a", ns=(1, 1))  # so that a fresh look would write the new time down
    with unwritable(tmp_path) as failed:
        assert store.find(key) == there == put(store, key)
        assert [e.key for e in store.entries()] == [key]
        with pytest.raises(AdvisorError) as e:
            put(store, store.key("convert", {"new": 1}))
    assert failed
    assert (e.value.code, e.value.exit_code) == ("not-writable", 5)
    assert str(tmp_path) in e.value.message


# ------------------------------------------------------------------------ environments

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


def fake_build(pins: BackendPins, folder: Path, python: Any, **_: Any) -> dict[str, Any]:
    (folder / "bin").mkdir()
    os.symlink(sys.executable, folder / "bin" / "python")
    (folder / "lib" / "python3.11" / "site-packages" / "six-1.17.0.dist-info").mkdir(parents=True)
    return {}


@pytest.mark.parametrize("call", WRITES)
def test_a_full_disk_at_every_write_of_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(env_build, "build", fake_build)

    def ensure(name: str) -> envs.Env:
        return envs.ensure("tiny", settings=settings.load(env={"ADVISOR_HOME": str(tmp_path / name)}), pins=PINS)

    total = count(lambda: ensure("count"), call)
    seen = []
    for n in range(1, total + 1):
        with fail_nth(call, n):
            try:
                ensure(str(n))
            except AdvisorError as e:
                seen.append(e.code)
            except OSError as e:  # of the fake build itself
                assert e.errno == errno.ENOSPC
        bases = list((tmp_path / str(n)).glob("cache/envs/v1/tiny-*"))
        assert all(list(base.iterdir()) == [] for base in bases) or ensure(str(n))
        assert Path(ensure(str(n)).python).exists()
    assert set(seen) <= {"disk-full"}
    assert seen or total == 0


def test_a_read_only_home_builds_nothing_and_uses_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_build, "build", fake_build)
    home = settings.load(env={"ADVISOR_HOME": str(tmp_path)})
    with unwritable(tmp_path), pytest.raises(AdvisorError) as e:
        envs.ensure("tiny", settings=home, pins=PINS)
    assert (e.value.code, e.value.exit_code) == ("not-writable", 5)
    env = envs.ensure("tiny", settings=home, pins=PINS)
    with unwritable(tmp_path):
        assert envs.ensure("tiny", settings=home, pins=PINS) == env


@pytest.mark.slow
def test_a_real_build_on_a_disk_that_gets_full(tmp_path: Path) -> None:
    """The kernel refuses every file beyond a size: the virtual environment itself cannot be written."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "from advisor.cli.main import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "env", "build", "llama.cpp", "--json"],
        cwd=scripted.REPO,
        env={**os.environ, "ADVISOR_HOME": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    document = json.loads(done.stdout)
    assert done.returncode == 5
    assert document["error"]["code"] in ("disk-full", "env-failed")
    assert not any(p.is_dir() for p in (tmp_path / "cache" / "envs" / "v1").glob("llama.cpp-*/*"))


# ------------------------------------------------------------------- plans, state, logs


@pytest.mark.parametrize("error", [*FULL, errno.EROFS, errno.EACCES])
def test_plans_that_cannot_be_kept_are_a_warning(tmp_path: Path, error: int) -> None:
    home = settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")})
    with unwritable(tmp_path / "home", error) as failed:
        report = api.recommend("8B", settings=home)
    assert failed
    assert report.plans
    (warning,) = [w for w in report.warnings if w.code == "plans-not-kept"]
    assert str(home.paths.plans) in warning.message
    with pytest.raises(AdvisorError) as e:
        api.explain(report.plans[0].id, settings=home)
    assert e.value.code == "plan-not-found"


@pytest.mark.parametrize("call", ["os.open", "os.replace", "os.fsync"])
def test_a_state_file_is_whole_or_as_before(tmp_path: Path, call: str) -> None:
    path = tmp_path / "status.json"
    statefile.write(path, b"old")
    with fail_nth(call, 1), pytest.raises(AdvisorError) as e:
        statefile.write(path, b"new")
    assert (e.value.code, e.value.exit_code) == ("disk-full", 5)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p.name == "status.json" or p.suffix == ".tmp"] == ["status.json"]


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    for error, code in ((errno.ENOSPC, "disk-full"), (errno.EROFS, "not-writable")):
        with unwritable(tmp_path / "state", error), pytest.raises(AdvisorError) as e:
            statefile.make_folder(tmp_path / "state" / "deployments" / "one")
        assert (e.value.code, e.value.exit_code) == (code, 5)
        assert str(tmp_path) in e.value.message
    statefile.make_folder(tmp_path / "state")
    with unwritable(tmp_path / "state", errno.ENOSPC), pytest.raises(AdvisorError) as e:
        keys.make(tmp_path / "state" / "key")
    assert e.value.code == "disk-full"


def test_a_log_that_cannot_be_written_on_does_not_end_the_work(tmp_path: Path) -> None:
    """The log of a step is beside the point; a command that fills the disk fails by itself."""
    log = tmp_path / "log"
    code = "import sys; print('x' * 50000, flush=True); print('last words', flush=True); sys.exit(3)"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    lines: list[str] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(AdvisorError) as e:
            proc.run([sys.executable, "-I", "-c", code], log=log, step="s", on_line=lines.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.data["backend_exit"] == 3
    assert lines[-1] == "last words"
    assert log.stat().st_size <= 1000


def test_no_room_for_a_request_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(AdvisorError) as e:
            proc.run([sys.executable, "-c", ""], log=tmp_path / "log", step="s", request=b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.code == "disk-full"
    monkeypatch.setattr(proc.tempfile, "gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError(2, "No such")))
    with pytest.raises(AdvisorError) as e:
        proc.run([sys.executable, "-c", ""], log=tmp_path / "log", step="s")
    assert e.value.code == "not-writable"


def test_a_journal_on_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    with unwritable(tmp_path, errno.ENOSPC):
        assert Journal(tmp_path / "journal").add("done") is False


# -------------------------------------------------------------------- the command line


def limited(folder: Path, size: int, *words: str) -> subprocess.CompletedProcess[str]:
    """``advisor WORDS --json`` where no file can grow beyond ``size`` bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        scripted.command(folder, *words, "--json"),
        cwd=scripted.REPO,
        env={**os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=limit,
    )


def test_files_that_cannot_grow_are_told_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder = scripted.runners(tmp_path / "runners")
    model = scripted.model(tmp_path / "small-F16.gguf")
    plans = limited(folder, 100, "recommend", "8B")
    assert plans.returncode == 0
    assert "plans-not-kept" in plans.stdout
    words = ("quantize", str(model), "--format", "q4_k_m")
    small = limited(folder, 20_000, *words)
    assert small.returncode in (1, 5)
    assert json.loads(small.stdout)["error"]["code"] in ("disk-full", "quantizer-failed")
    assert "Traceback" not in small.stderr
    store = Store(Path(os.environ["ADVISOR_HOME"]) / "cache" / "store" / "v1")
    assert store.entries() == ()
    assert list((store.root / "tmp").iterdir()) == []
    assert scripted.advisor(folder, *words, "--json").returncode == 0
    before = [e.key for e in store.entries()]
    assert limited(folder, 20_000, *words).returncode == 0  # nothing large has to be written
    assert [e.key for e in store.entries()] == before


@pytest.mark.parametrize(("error", "code"), [(errno.ENOSPC, "disk-full"), (errno.EROFS, "not-writable")])
def test_up_in_a_home_that_takes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], error: int, code: str
) -> None:
    model = scripted.model(tmp_path / "small-Q8_0.gguf", "q8_0")
    with unwritable(Path(os.environ["ADVISOR_HOME"]), error):
        exit_code = main(["up", str(model), "--json"])
    document = json.loads(capfd.readouterr().out)
    assert (exit_code, document["error"]["code"]) == (5, code)
    assert os.environ["ADVISOR_HOME"] in document["error"]["message"]
    assert document["error"]["hint"]


def test_a_plan_larger_than_the_disk_is_refused_before_anything_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.execute import preflight

    monkeypatch.setattr(preflight, "free_bytes", lambda _: 1000)
    model = scripted.model(tmp_path / "small-F16.gguf")
    assert main(["up", str(model), "--format", "q4_k_m", "--json"]) == 5
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["code"] == "disk-full"
    assert error["data"]["short_by"] == error["data"]["needed_bytes"] - 1000
    assert error["data"]["step"] == "preflight"
