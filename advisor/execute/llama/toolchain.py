"""What is on this machine to compile with: compilers, headers, CMake and Ninja. Looking starts no process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from advisor import settings as settings_
from advisor.backends.llama import native
from advisor.errors import AdvisorError
from advisor.execute.llama.find import said, which

# Where the makers' installers put their compilers without touching PATH.
_CUDA: Final = ("/usr/local/cuda/bin", "/opt/cuda/bin")
_ROCM: Final = ("/opt/rocm/bin",)
_PROGRAMS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "cc": (("cc", "gcc", "clang"), ()),
    "c++": (("c++", "g++", "clang++"), ()),
    "cmake": (("cmake",), ()),
    "ninja": (("ninja", "ninja-build"), ()),
    "nvcc": (("nvcc",), _CUDA),
    "hipcc": (("hipcc",), _ROCM),
    "glslc": (("glslc",), ()),
}
_FILES: Final[dict[str, tuple[str, ...]]] = {
    "vulkan.h": ("include/vulkan/vulkan.h",),
    "spirv.hpp": ("include/spirv/unified1/spirv.hpp",),
    "cublas": ("include/cublas_v2.h", "targets/*/include/cublas_v2.h", "include/*/cublas_v2.h"),
    "hipblas": ("include/hipblas/hipblas.h",),
    "libvulkan": ("lib/libvulkan.so", "lib64/libvulkan.so", "lib/*/libvulkan.so", "lib/libvulkan.dylib"),
}
_PREFIXES: Final = ("/usr", "/usr/local", "/opt/homebrew", "/usr/local/cuda", "/opt/cuda", "/opt/rocm")
_OLDEST_CMAKE: Final = (3, 18)


def look(path: str | None = None) -> dict[str, str]:
    """What there is of ``native.NEEDS``, CMake and Ninja, by name, with its path."""
    path = settings_.child_environment().get("PATH", "") if path is None else path
    out = {}
    for name, (programs, more) in _PROGRAMS.items():
        found = which(programs, path, *more)
        if found is not None:
            out[name] = found
    # A toolkit that lies elsewhere has its compiler in its own folder bin.
    roots = [*map(Path, _PREFIXES), *(Path(out[c]).resolve().parent.parent for c in ("nvcc", "hipcc") if c in out)]
    for name, patterns in _FILES.items():
        there = next((f for root in roots for pattern in patterns for f in root.glob(pattern)), None)
        if there is not None:
            out[name] = str(there)
    return out


def check(backend: str, found: Mapping[str, str]) -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        AdvisorError: ``tool-missing`` with everything that is missing, and how it is installed on Debian or macOS.
    """
    lacking = native.missing(backend, found)
    if not lacking:
        return
    raise AdvisorError(
        "tool-missing",
        f"llama.cpp cannot be compiled for {backend} here: there is no {', no '.join(_bare(n.what) for n in lacking)}.",
        context=[f"missing: {n.what}; for instance: {n.how}" for n in lacking],
        hint="advisor env build llama.cpp --provider wheel",
        data={"backend": backend, "missing": [n.found for n in lacking]},
    )


def _bare(what: str) -> str:
    return what.removeprefix("a ").removeprefix("the ")


def words(backend: str, found: Mapping[str, str]) -> tuple[str, ...]:
    """What each compiler of a backend says of itself: part of what a build is known by.

    Raises:
        AdvisorError: ``tool-missing`` where one does not even tell its version.
    """
    names = [n.found for n in native.NEEDS[backend] if n.found in ("cc", "c++", "nvcc", "hipcc")]
    out = []
    for name in names:
        try:
            text = said([found[name], "--version"])
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            raise AdvisorError(
                "tool-missing",
                f"The compiler {found[name]} does not run: {e.message}",
                context=e.context,
                hint="advisor env build llama.cpp --provider wheel",
            ) from e
        out.append(f"{name}: {' '.join(text.split())[:400]}")
    return tuple(out)


def usable_cmake(found: Mapping[str, str]) -> str | None:
    """The machine's CMake where it is new enough."""
    if "cmake" not in found:
        return None
    try:
        text = said([found["cmake"], "--version"])
    except AdvisorError as e:
        if e.code == "interrupted":
            raise
        return None
    digits = text.partition("cmake version ")[2].split(".")[:2]
    version = tuple(int(d) for d in digits if d.isdigit())
    return found["cmake"] if version >= _OLDEST_CMAKE else None
