"""What compiling llama.cpp takes for each kind of device: tools, headers and CMake options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from advisor.backends.llama.binary import TOOLS
from advisor.facts.machine import Machine

ENV: Final = "llama.cpp-build"
TARGETS: Final = TOOLS
BACKENDS: Final = ("cpu", "cuda", "rocm", "metal", "vulkan")

# Only what is served with: no downloads at build time, nothing that fetches models, no tests, no web page.
_COMMON: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    # The programs find their libraries beside themselves, wherever the folder is moved to.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_BUILD_NUMBER=0",
)


class Need(NamedTuple):
    """Something to be there: ``found`` is a key of what was looked for; ``what`` and ``how`` are for people."""

    found: str
    what: str
    how: str


_C: Final = Need("cc", "a C compiler (cc, gcc or clang)", "apt-get install build-essential")
_CXX: Final = Need("c++", "a C++ compiler (c++, g++ or clang++)", "apt-get install build-essential")
# CMake and Ninja come as packages of the environment where the machine has none.
NEEDS: Final[dict[str, tuple[Need, ...]]] = {
    "cpu": (_C, _CXX),
    "cuda": (
        _C,
        _CXX,
        Need("nvcc", "the CUDA compiler nvcc", "apt-get install nvidia-cuda-toolkit"),
        Need("cublas", "the cuBLAS library with its headers", "apt-get install nvidia-cuda-dev"),
    ),
    "rocm": (
        _C,
        _CXX,
        Need("hipcc", "the ROCm compiler hipcc", "apt-get install hipcc"),
        Need("hipblas", "the hipBLAS library with its headers", "apt-get install libhipblas-dev"),
    ),
    "metal": (Need("cc", "Apple's command-line tools (cc)", "xcode-select --install"), _CXX),
    "vulkan": (
        _C,
        _CXX,
        Need("glslc", "the shader compiler glslc", "apt-get install glslc"),
        Need("vulkan.h", "the Vulkan headers", "apt-get install libvulkan-dev"),
        Need("spirv.hpp", "the SPIR-V headers", "apt-get install spirv-headers"),
        Need("libvulkan", "the Vulkan loader library", "apt-get install libvulkan-dev"),
    ),
}
_BY_VENDOR: Final[dict[str, tuple[str, ...]]] = {
    "nvidia": ("cuda", "vulkan"),
    "amd": ("rocm", "vulkan"),
    "intel": ("vulkan",),
    "apple": ("metal",),
}


def missing(backend: str, found: Mapping[str, str]) -> tuple[Need, ...]:
    """What compiling for ``backend`` lacks; ``found`` maps what is there to its path."""
    return tuple(n for n in NEEDS[backend] if n.found not in found)


def buildable(machine: Machine, found: Mapping[str, str]) -> tuple[str, ...]:
    """The backends that can be compiled with what is there and for which the machine has something to drive."""
    kinds = {d.vendor for d in machine.devices if d.unusable is None}
    useful = ["cpu", *(b for v in sorted(kinds) for b in _BY_VENDOR.get(v, ()))]
    return tuple(b for b in dict.fromkeys(useful) if not missing(b, found))


def best(machine: Machine, found: Mapping[str, str]) -> str:
    """The backend to compile for: the first one of the machine's devices whose compiler is there; their own compiler
    where none is, so that what is missing is named; ``cpu`` without devices."""
    kinds = sorted({d.vendor for d in machine.devices if d.unusable is None and d.vendor in _BY_VENDOR})
    wanted = [b for v in kinds for b in _BY_VENDOR[v]]
    able = [b for b in wanted if not missing(b, found)]
    return able[0] if able else wanted[0] if wanted else "cpu"


def flags(backend: str, found: Mapping[str, str], machine: Machine, *, commit: str) -> tuple[str, ...]:
    """The options of CMake, in a fixed order.

    The processor's own features are used (GGML_NATIVE): what is compiled here runs here. CUDA code is made for the
    compute capabilities of the machine's devices, HIP code for their architectures.
    """
    out = [*_COMMON, f"-DLLAMA_BUILD_COMMIT={commit}", "-DGGML_NATIVE=ON"]
    if backend != "metal" and machine.host.os == "darwin":
        out.append("-DGGML_METAL=OFF")
    if backend == "cuda":
        out += ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={found['nvcc']}"]
        capabilities = sorted({d.compute_capability for d in machine.devices if d.compute_capability is not None})
        if capabilities:
            out.append("-DCMAKE_CUDA_ARCHITECTURES=" + ";".join(f"{10 * c:.0f}" for c in capabilities))
    elif backend == "rocm":
        out += ["-DGGML_HIP=ON"]
        targets = sorted({d.arch for d in machine.devices if d.arch is not None and d.arch.startswith("gfx")})
        if targets:
            out.append("-DGPU_TARGETS=" + ";".join(targets))
    elif backend == "vulkan":
        out.append("-DGGML_VULKAN=ON")
    elif backend == "metal":
        out += ["-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"]
    return tuple(out)


def identity(
    backend: str, cmake: Sequence[str], *, sdist: str, compilers: Sequence[str], machine: Machine
) -> dict[str, object]:
    """Everything that decides what is compiled; equal identities make the same programs.

    ``compilers``: what each compiler says of itself.
    """
    return {
        "backend": backend,
        # Where a compiler lies does not matter, which one it is stands in compilers.
        "flags": sorted(f for f in cmake if not f.startswith("-DCMAKE_CUDA_COMPILER=")),
        "targets": sorted(TARGETS),
        "sdist": sdist,
        "compilers": sorted(compilers),
        "os": machine.host.os,
        "arch": machine.host.arch,
        "isa": sorted(machine.host.cpu.isa),
    }
