"""What compiling llama.cpp needs, which backend it is compiled for, and what a build is known by."""

from __future__ import annotations

import msgspec
import pytest

from advisor.backends.llama import native
from tests.unit.planner import planner_fakes as fakes

ALL_TOOLS = {n.found: f"/tools/{n.found}" for needs in native.NEEDS.values() for n in needs}


@pytest.mark.parametrize("backend", native.BACKENDS)
def test_each_backend_names_all_that_is_missing(backend: str) -> None:
    assert native.missing(backend, ALL_TOOLS) == ()
    lacking = native.missing(backend, {})
    assert {"cc", "c++"} <= {n.found for n in lacking}
    assert all(n.what and n.how for n in lacking)


def test_what_is_compiled_for_follows_the_devices_and_the_tools() -> None:
    nvidia, cpu, apple = fakes.rtx_4090(), fakes.cpu_only(), fakes.m2_ultra()
    assert native.best(nvidia, ALL_TOOLS) == "cuda"
    assert native.best(nvidia, {k: v for k, v in ALL_TOOLS.items() if k != "nvcc"}) == "vulkan"
    # Where neither can be compiled, the device's own compiler is what is missing.
    assert native.best(nvidia, {"cc": "/cc", "c++": "/c++"}) == "cuda"
    assert native.best(cpu, ALL_TOOLS) == "cpu"
    assert native.best(apple, ALL_TOOLS) == "metal"
    assert native.buildable(nvidia, ALL_TOOLS) == ("cpu", "cuda", "vulkan")
    assert native.buildable(cpu, ALL_TOOLS) == ("cpu",)
    assert native.buildable(nvidia, {}) == ()


def test_options_follow_the_device() -> None:
    cuda = native.flags("cuda", ALL_TOOLS, fakes.rtx_4090(), commit="abc")
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=89", "-DCMAKE_CUDA_COMPILER=/tools/nvcc"} <= set(cuda)
    for backend, flag in (("rocm", "-DGGML_HIP=ON"), ("vulkan", "-DGGML_VULKAN=ON"), ("metal", "-DGGML_METAL=ON")):
        assert flag in native.flags(backend, ALL_TOOLS, fakes.cpu_only(), commit="abc")
    for backend in native.BACKENDS:
        made = native.flags(backend, ALL_TOOLS, fakes.cpu_only(), commit="abc")
        assert {"-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF", "-DGGML_NATIVE=ON"} <= set(made)


def test_a_build_is_known_by_all_that_decides_it() -> None:
    machine = fakes.cpu_only()
    flags = native.flags("cpu", ALL_TOOLS, machine, commit="abc")

    def known(**changes: object) -> dict[str, object]:
        base: dict[str, object] = {"sdist": "s", "compilers": ("gcc 12",), "machine": machine}
        return native.identity("cpu", flags, **(base | changes))  # type: ignore[arg-type]

    assert known() == known()
    assert known() != known(sdist="other")
    assert known() != known(compilers=("gcc 13",))
    cpu = msgspec.structs.replace(machine.host.cpu, isa=("avx512f",))
    newer = msgspec.structs.replace(machine, host=msgspec.structs.replace(machine.host, cpu=cpu))
    assert known() != known(machine=newer)
